#include "apps/args.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "engine/cpu/isa.h"
#include "engine/parallel.h"

namespace sutor {
namespace {

std::string number(double v) { return fmt::format("{}", v); }

}  // namespace

Args::Args(std::string command, std::string summary, std::string example)
    : command_(std::move(command)), summary_(std::move(summary)), example_(std::move(example)) {
  string("config", "YAML file: any long option as a key; flags win over it");
  flag("dump-config", "print the effective configuration as YAML and stop");
}

Args::Option& Args::declare(const char* name, Kind kind, const char* help, std::string fallback) {
  order_.push_back(name);
  Option& o = options_[name];
  o.kind = kind;
  o.help = help;
  o.text = o.fallback = std::move(fallback);
  return o;
}

void Args::positional(const char* name, const char* help, bool optional) {
  Option& o = declare(name, Kind::kString, help, "");
  o.positional = true;
  o.optional = optional;
  positionals_.push_back(name);
}
void Args::positionals(const char* name, const char* help) {
  Option& o = declare(name, Kind::kList, help, "");
  o.positional = true;
  positionals_.push_back(name);
}
void Args::string(const char* name, const char* help, std::string fallback) {
  declare(name, Kind::kString, help, std::move(fallback));
}
void Args::flag(const char* name, const char* help) { declare(name, Kind::kFlag, help, "false"); }
void Args::list(const char* name, const char* help) { declare(name, Kind::kList, help, ""); }
void Args::integer(const char* name, const char* help, int64_t fallback, int64_t lo, int64_t hi) {
  Option& o = declare(name, Kind::kInt, help, std::to_string(fallback));
  o.lo = static_cast<double>(lo);
  o.hi = static_cast<double>(hi);
}
void Args::real(const char* name, const char* help, double fallback, double lo, double hi) {
  Option& o = declare(name, Kind::kReal, help, number(fallback));
  o.lo = lo;
  o.hi = hi;
}
void Args::choice(const char* name, const char* help, std::string fallback,
                  std::vector<std::string> allowed) {
  declare(name, Kind::kChoice, help, std::move(fallback)).allowed = std::move(allowed);
}

void Args::no_default(const char* name) {
  at(name);  // declared before
  options_[name].text = options_[name].fallback = "";
}

void Args::derive(const char* name, std::function<std::string(const Args&)> value,
                  std::string shown) {
  at(name);  // declared before
  options_[name].derived = std::move(value);
  options_[name].shown = std::move(shown);
}

void Args::common() {
  string("device", "cpu | cuda | cuda:N", cuda_unusable_because().empty() ? "cuda" : "cpu");
  // Without bf16 instructions a bf16 product is an emulated one: slower, and less precise.
  choice("dtype", "what matrix products compute in; the default is what this machine is fast at",
         cpu::current_isa() >= cpu::Isa::kAvx512Bf16 ? "bf16" : "f32", {"bf16", "f32"});
  integer("threads", "0: one per physical core", 0, 0, 1024);
  integer("seed", "of everything random", 0, 0, INT64_MAX / 2);
  flag("verbose", "say on stderr what it runs on");
  flag("quiet", "no progress on stderr");
  flag("json", "results as JSON");
}

const Args::Option& Args::at(const std::string& name) const {
  auto it = options_.find(name);
  check(it != options_.end(), "internal: {} never declared --{}", command_, name);
  return it->second;
}

void Args::set(const std::string& name, const std::string& value, const std::string& where) {
  auto it = options_.find(name);
  if (it == options_.end())
    throw UsageError(fmt::format("{}: unknown option; known: {}", where, fmt::join(order_, ", ")));
  Option& o = it->second;
  auto bad = [&](const std::string& want) {
    throw UsageError(fmt::format("{}: '{}' is not {}", where, value, want));
  };
  double v = 0;
  const char *first = value.data(), *last = first + value.size();
  switch (o.kind) {
    case Kind::kInt: {
      int64_t i = 0;
      auto [end, ec] = std::from_chars(first, last, i);
      v = static_cast<double>(i);
      if (ec != std::errc() || end != last || v < o.lo || v > o.hi)
        bad(fmt::format("a whole number in {:.0f}..{:.0f}", o.lo, o.hi));
      break;
    }
    case Kind::kReal: {
      auto [end, ec] = std::from_chars(first, last, v);
      if (ec != std::errc() || end != last || !(v >= o.lo && v <= o.hi))
        bad(fmt::format("a number in {}..{}", o.lo, o.hi));
      break;
    }
    case Kind::kFlag:
      if (value != "true" && value != "false") bad("true or false");
      break;
    case Kind::kChoice:
      if (std::find(o.allowed.begin(), o.allowed.end(), value) == o.allowed.end())
        bad(fmt::format("one of {}", fmt::join(o.allowed, ", ")));
      break;
    case Kind::kList:
      o.values.push_back(value);
      break;
    case Kind::kString:
      break;
  }
  o.text = value;
  given_.insert(name);
}

void Args::read_yaml(const std::string& file) {
  YAML::Node root;
  try {
    check(std::filesystem::is_regular_file(file), "{}: no such file", file);
    check(std::filesystem::file_size(file) <= (1 << 20), "{}: larger than 1 MiB", file);
    root = YAML::LoadFile(file);  // yaml-cpp itself refuses deep nesting
  } catch (const YAML::Exception& e) {
    fail("{}:{}:{}: {}", file, e.mark.line + 1, e.mark.column + 1, e.msg);
  }
  check(root.IsMap(), "{}: must be a map of options", file);
  std::vector<std::string> allowed;
  for (const std::string& name : order_)
    if (name != "config" && name != "dump-config") allowed.push_back(name);
  std::set<std::string> by_flag = given_, seen;
  for (const auto& kv : root) {
    std::string at =
        fmt::format("{}:{}:{}", file, kv.first.Mark().line + 1, kv.first.Mark().column + 1);
    check(kv.first.IsScalar(), "{}: a key must be the name of an option", at);
    std::string key = kv.first.Scalar();
    std::replace(key.begin(), key.end(), '_', '-');
    std::string where = at + ": " + key;
    check(std::find(allowed.begin(), allowed.end(), key) != allowed.end(),
          "{}: unknown key; allowed: {}", where, fmt::join(allowed, ", "));
    check(seen.insert(key).second, "{}: given twice", where);
    bool list = options_.at(key).kind == Kind::kList;
    std::vector<std::string> values;
    if (kv.second.IsScalar())
      values.push_back(kv.second.Scalar());
    else
      check(list && kv.second.IsSequence(), "{}: must be {}", where,
            list ? "a value or a list of values" : "a single value");
    if (kv.second.IsSequence())
      for (const auto& v : kv.second) {
        check(v.IsScalar(), "{}: must be a value or a list of values", where);
        values.push_back(v.Scalar());
      }
    if (by_flag.count(key)) continue;
    try {
      for (const std::string& v : values) set(key, v, where);
      options_.at(key).from_file = true;
    } catch (const UsageError& e) {
      throw Error(e.what());  // what a file says is data, not usage
    }
  }
}

bool Args::parse(int argc, char** argv) {
  size_t next = 0;
  for (int i = 0; i < argc; ++i) {
    std::string a = argv[i];
    if (a == "--help" || a == "-h") {
      fmt::print("{}", usage());
      return false;
    }
    if (!a.starts_with("--") || a == "--") {
      if (next == positionals_.size())
        throw UsageError(
            fmt::format("'{}': one argument too many; sutor {} --help tells", a, command_));
      set(positionals_[next], a, a);
      if (at(positionals_[next]).kind != Kind::kList) ++next;
      continue;
    }
    std::string name = a.substr(2), value;
    size_t eq = name.find('=');
    bool inline_value = eq != std::string::npos;
    if (inline_value) {
      value = name.substr(eq + 1);
      name = name.substr(0, eq);
    }
    auto it = options_.find(name);
    if (it == options_.end() || it->second.positional)
      throw UsageError(
          fmt::format("--{}: sutor {} has no such option; --help lists them", name, command_));
    if (it->second.kind == Kind::kFlag) {
      if (!inline_value) value = "true";
    } else if (!inline_value) {
      if (i + 1 == argc) throw UsageError(fmt::format("--{}: needs a value", name));
      value = argv[++i];
    }
    if (it->second.kind != Kind::kList && given(name))
      throw UsageError(fmt::format("--{}: given twice", name));
    set(name, value, "--" + name);
  }
  if (given("config")) read_yaml(str("config"));
  for (size_t i = 0; i < positionals_.size(); ++i)
    if (!given(positionals_[i]) && !at(positionals_[i]).optional)
      throw UsageError(
          fmt::format("{} is missing; sutor {} --help tells", positionals_[i], command_));
  for (auto& [name, o] : options_)
    if (o.derived && !given(name)) o.text = o.derived(*this);
  if (on("dump-config")) {
    fmt::print("{}", yaml());
    return false;
  }
  return true;
}

const std::string& Args::str(const std::string& name) const { return at(name).text; }
int64_t Args::num(const std::string& name) const { return std::stoll(at(name).text); }
double Args::real(const std::string& name) const { return std::stod(at(name).text); }
bool Args::on(const std::string& name) const { return at(name).text == "true"; }
const std::vector<std::string>& Args::all(const std::string& name) const { return at(name).values; }

const std::string& Args::required(const std::string& name) const {
  if (!given(name)) throw UsageError(fmt::format("--{} is missing: {}", name, at(name).help));
  return str(name);
}

void Args::no_effect_unless(bool condition, const std::string& name, const std::string& why) const {
  const Option& o = at(name);
  // A file may repeat a default: what --dump-config wrote must be readable again.
  bool said = given(name) && !(o.from_file && o.text == o.fallback);
  if (!condition && said) throw UsageError(fmt::format("--{} has no effect here: {}", name, why));
}

Ctx Args::context() const {
  const std::string& device = str("device");
  if (device != "cpu") {
    bool cuda = device == "cuda" || (device.starts_with("cuda:") && device.size() > 5 &&
                                     device.find_first_not_of("0123456789", 5) == device.npos);
    if (!cuda)
      throw UsageError(fmt::format("--device: '{}' is not one of cpu, cuda, cuda:N", device));
    fail("--device {}: {}", device, cuda_unusable_because());
  }
  set_num_threads(num("threads") > 0 ? static_cast<int>(num("threads")) : physical_cores());
  if (on("verbose"))
    note("device cpu ({}), dtype {}, {} threads; {}\n", cpu::name_of(cpu::current_isa()),
         str("dtype"), num_threads(), cuda_unusable_because());
  return cpu_context(str("dtype") == "f32" ? Compute::kF32 : Compute::kBF16);
}

std::string Args::yaml() const {
  YAML::Emitter out;
  out << YAML::BeginMap;
  for (const std::string& name : order_) {
    const Option& o = at(name);
    if (name == "config" || name == "dump-config" || (o.text.empty() && o.values.empty())) continue;
    out << YAML::Key << name << YAML::Value;
    if (o.kind == Kind::kList)
      out << o.values;
    else
      out << o.text;
  }
  out << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

std::string Args::usage() const {
  std::string s = fmt::format("sutor {}: {}\n\nUsage: sutor {}", command_, summary_, command_);
  for (const std::string& p : positionals_) s += " " + p;
  s += " [options]\n\n";
  for (const std::string& name : order_) {
    const Option& o = at(name);
    std::string left = o.positional ? name : "--" + name;
    std::string about = o.help;
    if (!o.allowed.empty()) about += fmt::format(" ({})", fmt::join(o.allowed, "|"));
    if (o.kind == Kind::kList) about += " (repeatable)";
    const std::string& shown = o.shown.empty() ? o.text : o.shown;
    if (o.kind != Kind::kFlag && !shown.empty()) about += fmt::format(" [{}]", shown);
    s += fmt::format("  {:<22} {}\n", left, about);
  }
  return s + "\nExample:\n  " + example_ + "\n";
}

}  // namespace sutor
