// The pickle machine (Python's pickletools documents its opcodes): a stack, marks, a memo. Values
// never own each other, so that cycles and deep nesting cost nothing; their number is at most that
// of the opcodes. Source: torch/serialization.py, torch/_utils.py. Test: tests/torch_file.cpp,
// tests/fuzz/torch_file.cpp.

#include "io/pickle.h"

#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <unordered_map>

namespace sutor {

using Value = PickleValue;
using Kind = PickleValue::Kind;

const char* name_of(Kind kind) {
  constexpr const char* names[] = {"None",     "a bool",    "an integer", "a float",
                                   "a string", "a tuple",   "a list",     "a dict",
                                   "a global", "a storage", "a tensor",   "a mark"};
  return names[static_cast<int>(kind)];
}

namespace {

constexpr size_t kMaxStack = 1 << 20, kMaxDims = 16;

constexpr std::array<std::pair<std::string_view, DType>, 10> kStorages{{
    {"torch.FloatStorage", DType::F32},
    {"torch.BFloat16Storage", DType::BF16},
    {"torch.HalfStorage", DType::F16},
    {"torch.DoubleStorage", DType::F64},
    {"torch.LongStorage", DType::I64},
    {"torch.IntStorage", DType::I32},
    {"torch.ShortStorage", DType::I16},
    {"torch.CharStorage", DType::I8},
    {"torch.ByteStorage", DType::U8},
    {"torch.BoolStorage", DType::BOOL},
}};

constexpr std::string_view kDict = "collections.OrderedDict",
                           kTensor = "torch._utils._rebuild_tensor_v2",
                           kParameter = "torch._utils._rebuild_parameter";

// Names without any effect: they may stand in a dict beside tensors.
constexpr std::string_view kDtypes[] = {
    "torch.float32", "torch.bfloat16", "torch.float16", "torch.float64", "torch.int64",
    "torch.int32",   "torch.int16",    "torch.int8",    "torch.uint8",   "torch.bool"};

std::optional<DType> storage_type(std::string_view name) {
  for (auto [n, t] : kStorages)
    if (n == name) return t;
  return std::nullopt;
}

bool allowed(std::string_view name) {
  if (name == kDict || name == kTensor || name == kParameter || storage_type(name)) return true;
  for (std::string_view d : kDtypes)
    if (name == d) return true;
  return false;
}

class Machine {
 public:
  Machine(std::string_view bytes, const std::string& where, std::deque<Value>& values)
      : in_(bytes), where_(where), values_(values) {}

  const Value& run() {
    for (;;) {
      uint8_t op = number<uint8_t>();
      if (op == '.') break;
      step(op);
      check(stack_.size() <= kMaxStack, "{}: pickle: more than {} values on the stack", where_,
            kMaxStack);
    }
    check(stack_.size() == 1, "{}: pickle: ends with {} values on the stack, 1 expected", where_,
          stack_.size());
    return *stack_[0];
  }

 private:
  // Input.
  std::string_view take(size_t n) {
    check(n <= in_.size() - at_, "{}: pickle: cut off at byte {}", where_, at_);
    at_ += n;
    return in_.substr(at_ - n, n);
  }
  template <class T>
  T number() {
    T v;
    std::memcpy(&v, take(sizeof(T)).data(), sizeof(T));
    return v;
  }
  std::string line() {
    size_t end = in_.find('\n', at_);
    check(end != in_.npos, "{}: pickle: cut off at byte {}", where_, at_);
    std::string s(take(end - at_));
    take(1);
    return s;
  }

  // Stack.
  Value& make(Kind kind) {
    values_.emplace_back().kind = kind;
    stack_.push_back(&values_.back());
    return values_.back();
  }
  Value* pop() {
    check(!stack_.empty() && stack_.back()->kind != Kind::kMark,
          "{}: pickle: nothing on the stack at byte {}", where_, at_);
    Value* v = stack_.back();
    stack_.pop_back();
    return v;
  }
  Value* pop(Kind kind) {
    Value* v = pop();
    check(v->kind == kind, "{}: pickle: {} expected before byte {}, found {}", where_,
          name_of(kind), at_, name_of(v->kind));
    return v;
  }
  Value* top(Kind kind) {
    Value* v = pop(kind);
    stack_.push_back(v);
    return v;
  }
  std::vector<const Value*> pop_to_mark() {
    size_t i = stack_.size();
    while (i > 0 && stack_[i - 1]->kind != Kind::kMark) --i;
    check(i > 0, "{}: pickle: no mark on the stack at byte {}", where_, at_);
    std::vector<const Value*> items(stack_.begin() + static_cast<std::ptrdiff_t>(i), stack_.end());
    stack_.resize(i - 1);
    return items;
  }
  void tuple(size_t n) {
    std::vector<const Value*> items(n);
    for (size_t i = n; i > 0; --i) items[i - 1] = pop();
    make(Kind::kTuple).items = std::move(items);
  }
  void string(size_t n) {
    std::string_view s = take(n);
    make(Kind::kString).text = s;
  }
  void append(Value* to, const std::vector<const Value*>& items) {
    to->items.insert(to->items.end(), items.begin(), items.end());
  }
  void set_items(const std::vector<const Value*>& items) {
    check(items.size() % 2 == 0, "{}: pickle: a key without a value at byte {}", where_, at_);
    append(top(Kind::kDict), items);
  }
  void global(const std::string& name) {
    check(
        allowed(name),
        "{}: pickle: asks for {}, which is not allowed: only tensors in (ordered) dicts are read, "
        "no code is run",
        where_, name);
    make(Kind::kGlobal).text = name;
  }
  void put(uint32_t id) {
    check(!stack_.empty() && stack_.back()->kind != Kind::kMark,
          "{}: pickle: nothing on the stack at byte {}", where_, at_);
    memo_[id] = stack_.back();
  }
  void fetch(uint32_t id) {
    auto it = memo_.find(id);
    check(it != memo_.end(), "{}: pickle: memo {} is empty at byte {}", where_, id, at_);
    stack_.push_back(it->second);
  }
  void long1() {
    size_t n = number<uint8_t>();
    check(n <= 8, "{}: pickle: an integer of {} bytes at byte {}, at most 8 allowed", where_, n,
          at_);
    std::string_view s = take(n);
    uint64_t v = n > 0 && (s[n - 1] & 0x80) != 0 ? ~uint64_t{0} : 0;  // two's complement
    for (size_t i = n; i > 0; --i) v = v << 8 | static_cast<uint8_t>(s[i - 1]);
    make(Kind::kInt).number = static_cast<int64_t>(v);
  }

  // Calls.
  const Value& arg(const Value& args, size_t i, Kind kind, const char* what) {
    check(i < args.items.size() && args.items[i]->kind == kind,
          "{}: pickle: {} must be {}, found {}", where_, what, name_of(kind),
          i < args.items.size() ? name_of(args.items[i]->kind) : "nothing");
    return *args.items[i];
  }
  // ('storage', torch.XStorage, key, location, elements)
  void storage() {
    const Value& id = *pop(Kind::kTuple);
    const std::string& kind = arg(id, 0, Kind::kString, "the kind of a persistent id").text;
    check(kind == "storage", "{}: pickle: a persistent id of kind \"{}\", known: storage", where_,
          kind);
    const std::string& type = arg(id, 1, Kind::kGlobal, "a storage's type").text;
    auto dtype = storage_type(type);
    check(dtype.has_value(), "{}: pickle: {} is no type of storage", where_, type);
    const std::string& key = arg(id, 2, Kind::kString, "a storage's key").text;
    int64_t n = arg(id, 4, Kind::kInt, "a storage's size").number;
    check(n >= 0, "{}: pickle: storage {} has {} elements", where_, key, n);
    Value& s = make(Kind::kStorage);
    s.text = key;
    s.number = n;
    s.dtype = *dtype;
  }
  Shape numbers(const Value& args, size_t i, const char* what) {
    Shape out;
    for (const Value* v : arg(args, i, Kind::kTuple, what).items) {
      check(v->kind == Kind::kInt && v->number >= 0 && out.size() < kMaxDims,
            "{}: pickle: {} must be up to {} integers >= 0", where_, what, kMaxDims);
      out.push_back(v->number);
    }
    return out;
  }
  void tensor(const Value& args) {  // storage, offset, size, stride, requires_grad, hooks
    const Value& s = arg(args, 0, Kind::kStorage, "a tensor's storage");
    int64_t offset = arg(args, 1, Kind::kInt, "a tensor's offset").number;
    Shape shape = numbers(args, 2, "a tensor's size"), stride = numbers(args, 3, "its stride");
    check(shape.size() == stride.size(), "{}: pickle: a tensor of {} dimensions has {} strides",
          where_, shape.size(), stride.size());
    // The last element must lie inside the storage, and a tensor is not larger than its storage
    // (strides of 0 could make much of little).
    int64_t last = offset, n = 1;
    bool ok = offset >= 0 && offset <= s.number;
    for (size_t i = 0; i < shape.size(); ++i) {
      int64_t step = 0;
      ok = ok && !__builtin_mul_overflow(n, shape[i], &n) &&
           !__builtin_mul_overflow(std::max<int64_t>(shape[i] - 1, 0), stride[i], &step) &&
           !__builtin_add_overflow(last, step, &last);
    }
    check(ok && (n == 0 || last < s.number) && n <= s.number,
          "{}: pickle: a tensor {} of strides {} at {} does not fit storage {} of {} elements",
          where_, to_string(shape), to_string(stride), offset, s.text, s.number);
    Value& t = make(Kind::kTensor);
    t.items = {&s};
    t.dtype = s.dtype;
    t.offset = offset;
    t.shape = std::move(shape);
    t.stride = std::move(stride);
  }
  void reduce() {
    const Value& args = *pop(Kind::kTuple);
    const std::string& f = pop(Kind::kGlobal)->text;
    if (f == kDict) {
      check(args.items.empty(), "{}: pickle: OrderedDict with arguments", where_);
      make(Kind::kDict);
    } else if (f == kTensor) {
      tensor(args);
    } else if (f == kParameter) {
      arg(args, 0, Kind::kTensor, "a parameter's data");
      stack_.push_back(const_cast<Value*>(args.items[0]));
    } else {
      fail("{}: pickle: calls {}, which is not allowed", where_, f);
    }
  }

  void step(uint8_t op) {
    switch (op) {
      case 0x80: {  // PROTO
        auto v = number<uint8_t>();
        check(v >= 2 && v <= 5, "{}: pickle: protocol {}, known: 2 to 5", where_, v);
        return;
      }
      case 0x95:  // FRAME
        take(8);
        return;
      case '(':
        make(Kind::kMark);
        return;
      case '}':
        make(Kind::kDict);
        return;
      case ']':
        make(Kind::kList);
        return;
      case ')':
        make(Kind::kTuple);
        return;
      case 'N':
        make(Kind::kNone);
        return;
      case 0x88:
      case 0x89:
        make(Kind::kBool).number = op == 0x88;
        return;
      case 'J':
        make(Kind::kInt).number = number<int32_t>();
        return;
      case 'K':
        make(Kind::kInt).number = number<uint8_t>();
        return;
      case 'M':
        make(Kind::kInt).number = number<uint16_t>();
        return;
      case 0x8a:
        return long1();
      case 'G':
        take(8);
        make(Kind::kFloat);
        return;
      case 'X':
        return string(number<uint32_t>());
      case 0x8c:
        return string(number<uint8_t>());
      case 0x85:
      case 0x86:
      case 0x87:
        return tuple(op - 0x84);
      case 't': {
        auto items = pop_to_mark();
        make(Kind::kTuple).items = std::move(items);
        return;
      }
      case 'q':
        return put(number<uint8_t>());
      case 'r':
        return put(number<uint32_t>());
      case 0x94:
        return put(static_cast<uint32_t>(memo_.size()));
      case 'h':
        return fetch(number<uint8_t>());
      case 'j':
        return fetch(number<uint32_t>());
      case 'c': {
        std::string module = line();
        return global(module + "." + line());
      }
      case 0x93: {
        std::string name = pop(Kind::kString)->text;
        return global(pop(Kind::kString)->text + "." + name);
      }
      case 'Q':
        return storage();
      case 'R':
        return reduce();
      case 'b':  // BUILD: attributes of a dict (state_dict()._metadata); of no effect here
        pop();
        top(Kind::kDict);
        return;
      case 's': {
        Value *value = pop(), *key = pop();
        return set_items({key, value});
      }
      case 'u':
        return set_items(pop_to_mark());
      case 'a': {
        Value* v = pop();
        return append(top(Kind::kList), {v});
      }
      case 'e': {
        auto items = pop_to_mark();
        return append(top(Kind::kList), items);
      }
      default:
        fail("{}: pickle: opcode 0x{:02x} at byte {} is not allowed", where_, op, at_ - 1);
    }
  }

  std::string_view in_;
  size_t at_ = 0;
  const std::string& where_;
  std::deque<Value>& values_;
  std::vector<Value*> stack_;
  std::unordered_map<uint32_t, Value*> memo_;
};

}  // namespace

const PickleValue& read_pickle(std::string_view bytes, const std::string& where,
                               std::deque<PickleValue>& values) {
  return Machine(bytes, where, values).run();
}

}  // namespace sutor
