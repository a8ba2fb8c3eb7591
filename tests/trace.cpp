// sutor trace: what is wrong with its input is one line that names the file.
#include "io/safetensors_writer.h"
#include "tests/command.h"

using namespace sutor;
using namespace sutor::test;

TEST_CASE("trace: a wrong input names its file, more tokens than positions are refused") {
  if (binary() == nullptr) return;
  Folder f;
  const std::string model = "tests/goldens/esft_train/model", in = f / "in.safetensors";
  auto ids = [](Shape shape, int64_t step, DType type = DType::I64) {
    Tensor t = zeros(shape, type);
    for (int64_t i = 0; i < t.numel() && type == DType::I64; ++i) t.as<int64_t>()[i] = i * step;
    return t;
  };
  auto says = [&](const NamedTensors& tensors, const std::string& more, const std::string& part) {
    save_safetensors(in, tensors);
    check_one_line(run(f, "trace " + model + " --threads 1 --input " + in + " --out " +
                              (f / "out.safetensors") + more),
                   1, {part});
    CHECK_FALSE(std::filesystem::exists(f / "out.safetensors"));
  };
  const Tensor good = ids({1, 16}, 1);
  says({{"x", good}}, "", in + ": has no input_ids");
  says({{"input_ids", ids({16}, 1)}}, "", in + ": input_ids must be I64 [B,T]");
  says({{"input_ids", ids({1, 16}, 1, DType::I32)}}, "", in + ": input_ids must be I64 [1, 16]");
  says({{"input_ids", ids({1, 16}, 1 << 20)}}, "", in + ": input_ids[0, 1] is 1048576");
  says({{"input_ids", good}}, " --grads", in + ": has no labels");
  says({{"input_ids", good}, {"labels", ids({1, 8}, 1)}}, "", in + ": labels must be I64 [1, 16]");
  Tensor none = ids({1, 16}, 0), mask = ids({1, 16}, 0);
  for (int64_t i = 0; i < 16; ++i) none.as<int64_t>()[i] = -100, mask.as<int64_t>()[i] = i != 4;
  says({{"input_ids", good}, {"labels", none}}, "", in + ": labels: no token is trained");
  says({{"input_ids", good}, {"attention_mask", mask}}, "", in + ": attention_mask[0, 4] is 0");
  says({{"input_ids", ids({1, 4}, 1)}}, " --greedy 1", in + ": --greedy continues the first 8 ids");
  says({{"input_ids", good}}, " --greedy 1000000", "max_position_embeddings");
}
