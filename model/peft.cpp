#include "model/peft.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "engine/quant.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "model/base_print.h"
#include "model/peft_complete.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

const std::string kPeft = "base_model.model.";

bool is_head_or_embedding(const std::string& module) {
  return module == "lm_head" || module.ends_with("embed_tokens");
}

struct Factors {
  Tensor a, b, magnitude;
  std::string key;  // of its A, for messages
};

class Loader {
 public:
  Loader(Model& model, const std::string& dir, Replaced* replaced)
      : model_(model),
        dir_(dir),
        replaced_(replaced),
        config_(PeftConfig::read(dir + "/adapter_config.json")),
        files_(Checkpoint::open(peft_weights(dir))) {}

  void load() {
    for (const std::string& key : files_.names()) read(key);
    replace_shared();
    for (const std::string& m : config_.modules_to_save)
      check(saved_.count(m) != 0, "{}: modules_to_save names {}, of which {} holds no tensor",
            config_.file, m, dir_);
    for (auto& [module, f] : factors_) {
      check(static_cast<bool>(f.a), "{}: {} has no lora_A beside it", dir_, f.key);
      check(static_cast<bool>(f.b), "{}: {} has lora_A but no lora_B", dir_, module);
      check(!config_.dora || f.magnitude, "{}: use_dora is true, {} has no lora_magnitude_vector",
            config_.file, module);
      std::string name = in_checkpoint(module);
      if (!model_.params.has(name + ".weight") && is_stack(module))
        attach_stack(module, f);
      else
        attach_named(module, name, f);
    }
    check_peft_complete(config_, model_, dir_, done_);
    check_base(model_, files_, dir_, [](const Param&) { return false; });
  }

 private:
  void read(const std::string& key) {
    check(key.starts_with(kPeft), "{}: tensor {} does not begin with {}", dir_, key, kPeft);
    std::string rest = key.substr(kPeft.size());
    auto module = [&](const char* suffix) {
      return rest.substr(0, rest.size() - std::strlen(suffix));
    };
    auto weight = [&](Tensor& to, const std::string& m) {
      Tensor t = files_.get(key);
      check_weight_type(t, dir_, key);
      check(!to, "{}: {} is there twice", dir_, key);
      to = t;
      Factors& f = factors_[m];
      if (f.key.empty() || key.ends_with(".lora_A.weight")) f.key = key;
    };
    if (rest.ends_with(".lora_A.weight")) {
      std::string m = module(".lora_A.weight");
      return weight(factors_[m].a, m);
    }
    if (rest.ends_with(".lora_B.weight")) {
      std::string m = module(".lora_B.weight");
      return weight(factors_[m].b, m);
    }
    for (const char* suffix : {".lora_magnitude_vector", ".lora_magnitude_vector.weight"})
      if (rest.ends_with(suffix)) {
        check(config_.dora, "{}: use_dora is not true, yet there is {}", config_.file, key);
        return weight(factors_[module(suffix)].magnitude, module(suffix));
      }
    check(rest.find(".lora_") == std::string::npos,
          "{}: tensor {} is no LoRA factor of a linear, which is not implemented", dir_, key);
    read_saved(key, rest);
  }

  // A whole tensor: of modules_to_save, a trained bias, or embeddings that peft saves of itself.
  void read_saved(const std::string& key, const std::string& rest) {
    size_t dot = rest.find_last_of('.');
    std::string module = rest.substr(0, dot), leaf = rest.substr(dot + 1);
    if (module.ends_with(".base_layer"))  // of a head that also carries factors
      module.resize(module.size() - std::strlen(".base_layer"));
    bool saved = false;
    for (const std::string& m : config_.modules_to_save)
      if (PeftConfig::is_saved_by(m, module)) saved_.insert(m), saved = true;
    check(saved || is_head_or_embedding(module) || (config_.bias != "none" && leaf == "bias"),
          "{}: tensor {} is no LoRA factor, and modules_to_save does not name {}", dir_, key,
          module);
    check(!is_head_or_embedding(module) || !model_.config.tie_embeddings || config_.ensure_tying ||
              !saved,
          "{}: modules_to_save names {}, which this model shares between embedding and head "
          "(peft would part them: not implemented)",
          config_.file, module);
    std::string name = in_checkpoint(module) + "." + leaf;
    bool shared =
        model_.config.tie_embeddings && (name == "lm_head.weight" || name == model_.head().name);
    if (shared)
      shared_.push_back(key);
    else
      replace_tensor(model_, name, files_.get(key), dir_, key, replaced_);
  }

  // One tensor is head and embedding: whichever the file holds replaces it; if both, they are
  // equal.
  void replace_shared() {
    if (shared_.empty()) return;
    Tensor t = files_.get(shared_[0]);
    for (const std::string& key : shared_) {
      Tensor other = files_.get(key);
      bool same = t.dtype == other.dtype && t.shape == other.shape &&
                  std::memcmp(t.data, other.data, t.nbytes()) == 0;
      check(same,
            "{}: {} and {} differ, but the model shares one tensor between them (peft would part "
            "them: not implemented)",
            dir_, shared_[0], key);
    }
    replace_tensor(model_, model_.head().name, t, dir_, shared_[0], replaced_);
  }

  // transformers 5 calls Mixtral's block "mlp" in memory; checkpoints say "block_sparse_moe".
  std::string in_checkpoint(std::string module) const {
    std::string other = module;
    if (size_t at = other.find(".mlp."); at != other.npos) {
      other.replace(at, 5, ".block_sparse_moe.");
      if (model_.params.has(other + ".weight") || model_.params.has(expert(other, 0, 0)))
        return other;
    }
    return module;
  }

  // The weight of one of an expert's linears: 0 gate, 1 up, 2 down.
  std::string expert(const std::string& experts, int64_t e, int part) const {
    static const char* kNames[] = {"gate_proj", "up_proj", "down_proj"};
    static const char* kMixtral[] = {"w1", "w3", "w2"};
    std::string name = fmt::format("{}.{}.{}.weight", experts, e, kNames[part]);
    return model_.params.has(name) ? name
                                   : fmt::format("{}.{}.{}.weight", experts, e, kMixtral[part]);
  }

  static bool is_stack(const std::string& module) {
    return module.ends_with(".experts") || module.ends_with(".experts.base_layer");
  }

  void attach_named(const std::string& module, const std::string& name, const Factors& f) {
    check(
        model_.params.has(name + ".weight"),
        "adapter {}: its tensor {} is for {}, which does not exist in the model: made for another "
        "one?",
        dir_, f.key, module);
    Param& w = model_.params.at(name + ".weight");
    bool linear = !is_head_or_embedding(module);
    check(is_matrix(w) && !module.ends_with("embed_tokens"),
          "{}: tensor {} is a LoRA on {}, which is not implemented (allowed: linears, head, "
          "routers)",
          dir_, f.key, module);
    bool named = config_.targets(module, linear) || config_.targets_parameter(module + ".weight");
    check(named, "{}: target_modules does not name {}, yet there is {}", config_.file, module,
          f.key);
    check_rank(f.a.shape.size() == 2 ? f.a.dim(0) : 0, config_.rank(module), f.key);
    attach(w, f.a, f.b, config_.scale(module), f.magnitude, f.key);
    done_.insert(module);
    done_.insert(module + ".weight");
  }

  void check_rank(int64_t has, int64_t wanted, const std::string& key) const {
    check(has == wanted, "{}: r is {}, tensor {} has rank {}", config_.file, wanted, key, has);
  }

  // peft's target_parameters: all experts of a layer in one pair, expert e's A in rows e*r.. of
  // [E*r, in], its B in columns k*E + e of [out, r*E] (rank-major). gate_up_proj [E, 2I, H] is
  // wrapped first, so its factors lie inside ("base_layer") when both are there. Up to 0.19.0 peft
  // took dim 1 of the parameter for `in`: A [E*r, 2I], B [H, r*E], the product transposed.
  void attach_stack(const std::string& module, const Factors& f) {
    constexpr std::string_view kInner = ".base_layer";
    bool inner = module.ends_with(kInner);
    std::string experts = inner ? module.substr(0, module.size() - kInner.size()) : module;
    bool both = config_.targets_parameter(experts + ".gate_up_proj") &&
                config_.targets_parameter(experts + ".down_proj");
    bool gate_up = both ? inner : config_.targets_parameter(experts + ".gate_up_proj");
    std::string target = experts + (gate_up ? ".gate_up_proj" : ".down_proj");
    check(config_.targets_parameter(target) && (both || !inner),
          "{}: target_parameters does not name {}, yet there is {}", config_.file, target, f.key);
    check(!config_.dora, "{}: use_dora with target_parameters, which peft does not have",
          config_.file);
    done_.insert(target);
    std::string in_file = in_checkpoint(experts);
    int64_t E = model_.config.experts;
    check(
        E > 0 && model_.params.has(expert(in_file, 0, 0)),
        "adapter {}: its tensor {} is for {}, which does not exist in the model: made for another "
        "one?",
        dir_, f.key, experts);
    const Tensor& one = model_.params.at(expert(in_file, 0, gate_up ? 0 : 2)).value;
    int64_t in = one.dim(1), out = one.dim(0) * (gate_up ? 2 : 1), r = config_.rank(target);
    auto fits = [&](int64_t a_cols, int64_t b_rows) {
      return f.a.shape == Shape({E * r, a_cols}) && f.b.shape == Shape({b_rows, r * E});
    };
    bool now = fits(in, out), before = fits(out, in);
    check(now || before,
          "{}: LoRA factors {} and {} of rank {} do not fit {} [{}, {}, {}] (tensor {})", dir_,
          to_string(f.a.shape), to_string(f.b.shape), r, target, E, out, in, f.key);
    bool swap = before;  // the older form
    if (now && before) {
      check(!config_.version.empty(),
            "{}: {} is square, so only the writing peft's version tells which factor is which; "
            "peft_version is missing",
            config_.file, target);
      swap = is_before_swap(config_.version);
    }
    float scale = config_.scale(target);
    for (int64_t e = 0; e < E; ++e) {
      Tensor a = f.a.slice(e * r, (e + 1) * r), b = columns_of(f.b, e, E, r);
      if (swap) {
        Tensor t = transposed(b);
        b = transposed(a);
        a = t;
      }
      if (gate_up) {
        int64_t I = out / 2;
        attach(model_.params.at(expert(in_file, e, 0)), a, b.slice(0, I), scale, {}, f.key);
        attach(model_.params.at(expert(in_file, e, 1)), a, b.slice(I, 2 * I), scale, {}, f.key);
      } else {
        attach(model_.params.at(expert(in_file, e, 2)), a, b, scale, {}, f.key);
      }
    }
  }

  static bool is_before_swap(const std::string& version) {  // of 0.19.1
    int major = 0, minor = 0, patch = 0;
    std::sscanf(version.c_str(), "%d.%d.%d", &major, &minor, &patch);
    return major == 0 && (minor < 19 || (minor == 19 && patch == 0));
  }

  // Column k*E + e of each k: [out, r].
  static Tensor columns_of(const Tensor& b, int64_t e, int64_t E, int64_t r) {
    Tensor out = empty({b.dim(0), r}), from = cast(b, DType::F32);
    for (int64_t n = 0; n < b.dim(0); ++n)
      for (int64_t k = 0; k < r; ++k) out.row(n)[k] = from.row(n)[k * E + e];
    return out;
  }

  static Tensor transposed(const Tensor& t) {
    Tensor from = cast(t, DType::F32), out = empty({t.dim(1), t.dim(0)});
    for (int64_t i = 0; i < t.dim(0); ++i)
      for (int64_t k = 0; k < t.dim(1); ++k) out.row(k)[i] = from.row(i)[k];
    return out;
  }

  void attach(Param& w, const Tensor& a, const Tensor& b, float scale, const Tensor& magnitude,
              const std::string& key) {
    check(a.shape.size() == 2 && b.shape.size() == 2 && a.dim(1) == w.value.dim(1) &&
              b.dim(0) == w.value.dim(0) && a.dim(0) == b.dim(1),
          "{}: LoRA factors {} and {} do not fit {} {}", dir_, to_string(a.shape),
          to_string(b.shape), w.name, to_string(w.value.shape));
    check(!w.lora && !is_folded(model_, w), "{}: {} already carries a LoRA (tensor {})", dir_,
          w.name, key);
    std::string module = module_of(w);
    if (is_linear(w) && !magnitude) {
      Param& pa = model_.params.add(module + ".lora_A.weight", a);
      Param& pb = model_.params.add(module + ".lora_B.weight", b);
      w.lora = Lora{&pa, &pb, scale};
      return;
    }
    w.value = unpacked(w.value);
    Tensor m;
    if (magnitude) {
      check(magnitude.numel() == w.value.dim(0), "{}: lora_magnitude_vector {} does not fit {} {}",
            dir_, to_string(magnitude.shape), w.name, to_string(w.value.shape));
      m = cast(magnitude, DType::F32);
    }
    // The factors need an owner: they are no parameters of the model.
    auto own = [&](const Tensor& t) {
      Param& p = model_.fold_factors.emplace_back();
      p.name = key;
      p.value = t;
      return &p;
    };
    model_.folded.push_back({&w, w.value, Lora{own(a), own(b), scale}, m});
    w.value = unrounded(model_.folded.back());
  }

  Model& model_;
  std::string dir_;
  Replaced* replaced_;
  PeftConfig config_;
  Checkpoint files_;
  std::map<std::string, Factors> factors_;  // by module
  std::set<std::string> saved_;
  std::set<std::string> done_;       // modules and parameters that got their factors
  std::vector<std::string> shared_;  // keys of what is head and embedding in one
};

// How others find it: the absolute path, without a slash at its end.
std::string named(const std::string& folder) {
  fs::path p = fs::absolute(folder).lexically_normal();
  return (p.has_filename() ? p : p.parent_path()).string();
}

}  // namespace

std::string peft_weights(const std::string& dir) {
  std::string bin = dir + "/adapter_model.bin", file = dir + "/adapter_model.safetensors";
  return !fs::exists(file) && fs::exists(bin) ? bin : file;
}

void load_peft(Model& model, const std::string& dir, Replaced* replaced) {
  Loader(model, dir, replaced).load();
}

void write_peft(const std::string& dir, Model& model, const std::string& base,
                const LoraOptions& lora, const Metadata& metadata) {
  NamedTensors tensors;
  for (Param* p : model.params.trainable())
    if (p->name.find(".lora_") != std::string::npos)
      tensors.emplace_back(kPeft + p->name, p->value);
  check(!tensors.empty(), "{}: nothing was trained", dir);
  // The last names, where all linears of those names carry factors; else whole paths.
  std::vector<std::string> last, whole;
  auto leaf = [](const std::string& m) { return m.substr(m.find_last_of('.') + 1); };
  auto add = [](std::vector<std::string>& v, const std::string& s) {
    if (std::find(v.begin(), v.end(), s) == v.end()) v.push_back(s);
  };
  for (const Param& p : model.params.all())
    if (p.lora) add(last, leaf(module_of(p))), whole.push_back(module_of(p));
  bool all = true;
  for (const Param& p : model.params.all())
    if (is_matrix(p) && !p.lora)
      all = all && std::find(last.begin(), last.end(), leaf(module_of(p))) == last.end();
  Json j{{"peft_type", "LORA"},
         {"task_type", "CAUSAL_LM"},
         {"base_model_name_or_path", named(base)},
         {"r", lora.rank},
         {"lora_alpha", lora.alpha},
         {"lora_dropout", lora.dropout},
         {"target_modules", all ? last : whole},
         {"bias", "none"},
         {"fan_in_fan_out", false},
         {"use_rslora", false},
         {"use_dora", false},
         {"inference_mode", true}};
  save_safetensors(dir + "/adapter_model.safetensors", tensors, metadata);
  write_file_atomic(dir + "/adapter_config.json", j.dump(2) + "\n");
}

}  // namespace sutor
