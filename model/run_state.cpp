#include "model/run_state.h"

#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <sstream>

#include "io/safetensors.h"

namespace sutor {
namespace fs = std::filesystem;
namespace {

std::string file_of(int rank, int ranks) {
  return ranks == 1 ? "state.safetensors"
                    : fmt::format("state-{:05}-of-{:05}.safetensors", rank + 1, ranks);
}

std::string hash_of(const Tensor& t) {
  const XXH128_hash_t h = XXH3_128bits(t.data, static_cast<size_t>(t.nbytes()));
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}

// The master is what float32 has beyond the bf16 value, which then belongs to the state.
bool is_rest(const Param& p) { return p.master.dtype == DType::I16; }

// What of a parameter is state, by the prefix of its name there; as vectors of what is updated
// here. Scales have one element for each 256 of the others.
struct Part {
  const char* prefix;
  Tensor tensor;
  int64_t per;  // elements of the parameter to one of the tensor
};
std::vector<Part> parts_of(const Param& p) {
  std::vector<Part> out{{"master.", p.master, 1}, {"m.", p.m, 1}, {"v.", p.v, 1}};
  if (is_rest(p)) out.push_back({"value.", flat(p.value, p.lo, p.hi), 1});
  if (p.m_scale)
    out.insert(out.end(), {{"m_scale.", p.m_scale, 256}, {"v_scale.", p.v_scale, 256}});
  return out;
}

int64_t pieces_of(int64_t elements, int64_t per) { return (elements + per - 1) / per; }

}  // namespace

std::string differing_keys(const std::string& a, const std::string& b) {
  std::map<std::string, std::set<std::string>> values;  // the same in both: one
  std::map<std::string, int> times;
  for (const std::string* text : {&a, &b}) {
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
      std::string key = line.substr(0, line.find('='));
      values[key].insert(line);
      ++times[key];
    }
  }
  std::vector<std::string> keys;
  for (const auto& [key, v] : values)
    if (v.size() > 1 || times[key] == 1) keys.push_back(key);
  return fmt::format("{}", fmt::join(keys, ", "));
}

StateWriter::StateWriter(const std::string& dir, Model& model, int64_t step, const std::string& run,
                         const Json& more, const Ranks& ranks, bool background)
    : dir_(dir), file_(file_of(ranks.world.rank(), ranks.world.size())), ranks_(ranks) {
  manifest_ = more;
  manifest_["step"] = step;
  manifest_["run"] = run;
  Json& tensors = manifest_["tensors"] = Json::object();
  for (Param* p : model.params.trained_here())
    for (const Part& part : parts_of(*p)) {
      const std::string name = part.prefix + p->name;
      const bool scale = part.per > 1;
      const Shape shape = scale ? Shape{pieces_of(p->value.numel(), part.per)} : p->value.shape;
      tensors[name] = {{"dtype", name_of(part.tensor.dtype)}, {"shape", shape}};
      if (p->hi == p->lo) continue;
      // One rank's tensors have their shapes; pieces are vectors.
      const bool whole = part.tensor.numel() == numel_of(shape);
      tensors_.emplace_back(name, whole ? part.tensor.view(shape) : part.tensor);
      begin_.push_back(p->lo / part.per);
    }
  if (ranks.lead()) {
    try {
      aside_.emplace(dir);
      folder_ = aside_->dir();
    } catch (const Error& e) {
      error_ = e.what();
    }
  }
  folder_ = ranks_.world.broadcast(folder_, 0, "checkpoint");
  if (folder_.empty()) return;  // finish() says why
  if (background)
    thread_ = std::thread([this] { write(); });
  else
    write();
}

StateWriter::~StateWriter() {
  if (thread_.joinable()) thread_.join();
}

void StateWriter::write() {
  try {
    for (const auto& [name, t] : tensors_) hash_.push_back(hash_of(t));
    if (!tensors_.empty()) save_safetensors(folder_ + "/" + file_, tensors_);
  } catch (const std::exception& e) {
    error_ = e.what();
  }
}

void StateWriter::finish() {
  if (thread_.joinable()) thread_.join();
  Json mine{{"error", error_}, {"tensors", manifest_["tensors"]}};
  if (error_.empty() && !hash_.empty()) {  // none: nothing to write, or no folder to write it to
    mine["file"] = file_;
    for (size_t i = 0; i < tensors_.size(); ++i)
      mine["pieces"][tensors_[i].first] = {{"begin", begin_[i]},
                                           {"end", begin_[i] + tensors_[i].second.numel()},
                                           {"xxh3", hash_[i]}};
  }
  // The file of another may take long: that is no reason to end the run.
  ranks_.world.wait_patiently(true);
  const std::vector<std::string> all = ranks_.world.gather(mine.dump(), 0, "checkpoint");
  std::string error;
  for (size_t r = 0; r < all.size() && error.empty(); ++r) {
    const Json j = Json::parse(all[r]);
    if (error = j["error"].get<std::string>(); !error.empty() && all.size() > 1)
      error = fmt::format("rank {}: {}", r, error);
  }
  if (error.empty() && ranks_.lead()) try {
      Json& files = manifest_["files"] = Json::array();
      for (const std::string& text : all) {
        const Json j = Json::parse(text);
        for (const auto& [name, t] : j["tensors"].items())  // those of other owners' experts too
          if (!manifest_["tensors"].contains(name)) manifest_["tensors"][name] = t;
        if (!j.contains("file")) continue;
        for (const auto& [name, piece] : j["pieces"].items()) {
          Json p = piece;
          p["file"] = files.size();
          manifest_["tensors"][name]["pieces"].push_back(p);
        }
        files.push_back(j["file"]);
      }
      for (auto& [name, t] : manifest_["tensors"].items())
        std::sort(t["pieces"].begin(), t["pieces"].end(), [](const Json& a, const Json& b) {
          return a["begin"].get<int64_t>() < b["begin"].get<int64_t>();
        });
      write_file_atomic(folder_ + "/state.json", manifest_.dump(1) + "\n");
      aside_->commit();
    } catch (const std::exception& e) {
      error = e.what();
    }
  aside_.reset();
  error = ranks_.world.broadcast(error, 0, "checkpoint");
  ranks_.world.wait_patiently(false);
  check(error.empty(), "{}: not written: {}", dir_, error);
}

void write_state(const std::string& dir, Model& model, int64_t step, const std::string& run) {
  StateWriter(dir, model, step, run, Json::object(), {}, false).finish();
}

StateFile::StateFile(const std::string& dir)
    : dir_(dir), json_(read_json_file(dir + "/state.json")) {
  check(json_.contains("tensors") && json_["tensors"].is_object() && json_.contains("files") &&
            json_["files"].is_array(),
        "{}/state.json: lists no tensors: of another version of sutor?", dir);
  for (const Json& f : json_["files"]) {
    check(f.is_string() && f.get<std::string>().find('/') == std::string::npos,
          "{}/state.json: a file is named {}", dir, f.dump());
    files_.push_back(std::make_shared<SafetensorsFile>(dir + "/" + f.get<std::string>()));
  }
}

std::vector<std::string> StateFile::names() const {
  std::vector<std::string> out;
  for (const auto& [name, t] : json_["tensors"].items()) out.push_back(name);
  return out;
}

bool StateFile::has(const std::string& name) const { return json_["tensors"].contains(name); }

DType StateFile::dtype(const std::string& name) const {
  const auto text = get<std::string>(json_["tensors"][name], "dtype", dir_ + "/state.json");
  for (DType t : {DType::F32, DType::BF16, DType::F16, DType::I16, DType::U8})
    if (text == name_of(t)) return t;
  fail("{}/state.json: {} has dtype {}", dir_, name, text);
}

Shape StateFile::shape(const std::string& name) const {
  return get<Shape>(json_["tensors"][name], "shape", dir_ + "/state.json");
}

void StateFile::pieces(const std::string& name, int64_t lo, int64_t hi, bool verify,
                       const std::function<void(const Tensor&, int64_t)>& fn) const {
  const std::string where = dir_ + "/state.json";
  check(has(name), "{}: has no {}", dir_, name);
  const Json& t = json_["tensors"][name];
  const int64_t all = numel_of(shape(name));
  const DType type = dtype(name);
  int64_t at = 0;
  check(t.contains("pieces") && t["pieces"].is_array(), "{}: {} has no pieces", where, name);
  for (const Json& p : t["pieces"]) {
    const auto begin = get<int64_t>(p, "begin", where), end = get<int64_t>(p, "end", where);
    const auto file = get<int64_t>(p, "file", where);
    check(begin == at && end > begin && end <= all && file >= 0 &&
              file < static_cast<int64_t>(files_.size()),
          "{}: {}: elements {}..{} of {} in file {} do not follow {}", where, name, begin, end, all,
          file, at);
    at = end;
    if (end <= lo || begin >= hi) continue;
    const Tensor piece = files_[file]->get(name);
    check(piece.numel() == end - begin && piece.dtype == type, "{}: {} is {} {}, {} {} expected",
          files_[file]->path(), name, name_of(piece.dtype), to_string(piece.shape), name_of(type),
          end - begin);
    check(!verify || get<std::string>(p, "xxh3", where) == hash_of(piece), "{}: {} is damaged",
          files_[file]->path(), name);
    fn(piece.view({piece.numel()}), begin);
    if (verify) forget_pages(piece);
  }
  check(at == all, "{}: {} has {} of {} elements", where, name, at, all);
}

Tensor StateFile::tensor(const std::string& name) const {
  const int64_t n = numel_of(shape(name));
  Tensor out;
  pieces(name, 0, n, false, [&](const Tensor& piece, int64_t begin) {
    if (piece.numel() == n) {
      out = piece.view(shape(name));
      return;
    }
    if (!out) out = empty(shape(name), piece.dtype);
    copy_into(flat(out, begin, begin + piece.numel()), piece);
  });
  return out;
}

void StateFile::verify() const {
  for (const std::string& name : names())
    pieces(name, 0, std::numeric_limits<int64_t>::max(), true, [](const Tensor&, int64_t) {});
}

int64_t read_state(const std::string& dir, Model& model, const std::string& run) {
  const StateFile state(dir);
  const auto was = get<std::string>(state.json(), "run", dir);
  check(was == run, "{}: was made by a run with other data, model or settings: {}", dir,
        differing_keys(was, run));
  // to[lo..hi) of the tensor; `also`, of all of it, is what values are made of.
  auto read = [&](const std::string& name, const Tensor& to, int64_t lo, const Tensor& also) {
    const int64_t hi = lo + to.numel();
    check(state.has(name), "{}: has no {}", dir, name);
    check(state.dtype(name) == to.dtype, "{}: {} is {}, the run keeps {}", dir, name,
          name_of(state.dtype(name)), name_of(to.dtype));
    const int64_t from = also ? 0 : lo, end = also ? also.numel() : hi;
    state.pieces(name, from, end, true, [&](const Tensor& piece, int64_t begin) {
      const int64_t last = begin + piece.numel();
      if (also) copy_into(flat(also, begin, last), piece);
      const int64_t a = std::max(begin, lo), b = std::min(last, hi);
      if (a < b && to.data != also.data)
        copy_into(to.slice(a - lo, b - lo), piece.slice(a - begin, b - begin));
    });
  };
  size_t held = 0;
  for (Param* p : model.params.trained_here())
    for (const Part& part : parts_of(*p)) {
      const std::string prefix = part.prefix, name = prefix + p->name;
      const Tensor flat_value = flat(p->value, 0, p->value.numel());
      const Tensor none;
      if (state.has(name))
        check(state.shape(name) ==
                  (part.per > 1 ? Shape{pieces_of(p->value.numel(), part.per)} : p->value.shape),
              "{}: {} has shape {}, the model's parameter {}", dir, name,
              to_string(state.shape(name)), to_string(p->value.shape));
      if (prefix == "value.")
        read(name, flat(p->value, 0, 0), 0, flat_value);
      else
        read(name, part.tensor, p->lo / part.per,
             prefix == "master." && !is_rest(*p) ? flat_value : none);
    }
  std::set<std::string> trained;
  for (Param* p : model.params.trainable()) trained.insert(p->name);
  for (const std::string& name : state.names()) {
    const std::string param = name.substr(name.find('.') + 1);
    check(trained.count(param) != 0, "{}: holds {}, which the run does not train", dir, name);
    ++held;
  }
  check(held > 0, "{}: holds nothing", dir);
  return get<int64_t>(state.json(), "step", dir);
}

bool is_run_state(const std::string& dir) {
  if (!fs::exists(dir + "/state.json")) return false;
  if (fs::exists(dir + "/state.safetensors")) return true;
  std::error_code ec;
  int64_t found = 0, of = -1;
  for (const auto& e : fs::directory_iterator(dir, ec)) {
    const std::string name = e.path().filename().string();
    constexpr std::string_view kPrefix = "state-";
    const size_t mid = name.find("-of-");
    if (!name.starts_with(kPrefix) || mid == std::string::npos) continue;
    std::from_chars(name.data() + mid + 4, name.data() + name.size(), of);
    ++found;
  }
  if (of < 0) return false;
  if (found == of) return true;
  // A rank that updates nothing has no file: the manifest knows.
  try {
    const Json j = read_json_file(dir + "/state.json");
    for (const Json& f : j.at("files"))
      if (!fs::exists(dir + "/" + f.get<std::string>())) return false;
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

namespace {

// Checkpoints by step: whole ones, or those that lack a file.
std::map<int64_t, std::string> checkpoints(const std::string& run_dir, bool whole = true) {
  std::map<int64_t, std::string> found;
  if (!fs::is_directory(run_dir)) return found;
  for (const auto& e : fs::directory_iterator(run_dir)) {
    std::string name = e.path().filename().string();
    constexpr std::string_view kPrefix = "checkpoint-";
    int64_t step = -1;
    if (!name.starts_with(kPrefix)) continue;
    auto [end, ec] = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), step);
    if (ec == std::errc() && end == name.data() + name.size() && step >= 0 &&
        whole == is_run_state(e.path().string()))
      found[step] = e.path().string();
  }
  return found;
}

// The step whose checkpoint says the lowest eval_loss; -1: none says one.
int64_t best_of(const std::map<int64_t, std::string>& found) {
  int64_t best = -1;
  double lowest = std::numeric_limits<double>::infinity();
  for (const auto& [step, dir] : found) {
    const Json j = read_json_file(dir + "/state.json");
    if (!j.contains("eval_loss") || !j["eval_loss"].is_number() ||
        j["eval_loss"].get<double>() >= lowest)
      continue;
    lowest = j["eval_loss"].get<double>();
    best = step;
  }
  return best;
}

}  // namespace

std::string newest_checkpoint(const std::string& run_dir, std::string* torn) {
  auto found = checkpoints(run_dir), others = checkpoints(run_dir, false);
  if (torn != nullptr && !others.empty() &&
      (found.empty() || others.rbegin()->first > found.rbegin()->first))
    *torn = others.rbegin()->second;
  return found.empty() ? "" : found.rbegin()->second;
}

void keep_newest_checkpoints(const std::string& run_dir, int64_t keep, bool best) {
  auto found = checkpoints(run_dir);
  if (best) found.erase(best_of(found));
  while (static_cast<int64_t>(found.size()) > keep) {
    fs::path old = found.begin()->second;
    // Out of sight first: a removal cut off must not leave half a checkpoint. sweep_leftovers()
    // knows the name.
    fs::path aside =
        old.parent_path() / fmt::format(".sutor-tmp-{}-{}", old.filename().string(), getpid());
    std::error_code ec;
    fs::rename(old, aside, ec);
    if (!ec) fs::remove_all(aside, ec);
    check(!ec, "{}: cannot be removed: {}", old.string(), ec.message());
    found.erase(found.begin());
  }
}

}  // namespace sutor
