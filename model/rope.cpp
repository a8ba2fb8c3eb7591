#include "model/rope.h"

#include <numbers>

namespace sutor {
namespace {

// Where a frequency makes `rotations` turns within the original context, as an index into [dim/2].
double correction(const RopeConfig& r, int64_t dim, double rotations) {
  return static_cast<double>(dim) *
         std::log(static_cast<double>(r.original_max_positions) /
                  (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(r.theta));
}

// An unknown key is an unknown meaning (rope_parameters by layer type, sections, other schemes).
void check_keys(const Reader& r) {
  static const std::vector<std::string> known{"rope_type",
                                              "type",
                                              "rope_theta",
                                              "factor",
                                              "beta_fast",
                                              "beta_slow",
                                              "mscale",
                                              "mscale_all_dim",
                                              "truncate",
                                              "finetuned",
                                              "low_freq_factor",
                                              "high_freq_factor",
                                              "attention_factor",
                                              "partial_rotary_factor",
                                              "original_max_position_embeddings"};
  for (const auto& [key, value] : r.j.items())
    check(std::find(known.begin(), known.end(), key) != known.end(),
          "{}: unknown key {}, known: {}", r.where, key, fmt::join(known, ", "));
}

// One of the two objects, on top of what stands beside it.
RopeConfig read_object(const Reader& r, const char* key, RopeConfig rope, int64_t max_positions,
                       const std::vector<std::string>& types) {
  const Json& s = r.j.at(key);
  check(s.is_object(), "{}: {} must be an object or null", r.where, key);
  Reader q{s, r.where + ": " + key};
  rope.theta = q.number("rope_theta", rope.theta);
  std::string type = q.choice(q.one_of({"rope_type", "type"}), "default", types);
  check(!q.has("type") || q.value<std::string>("type", type) == type,
        "{}: rope_type is \"{}\" and type \"{}\", must be the same", q.where, type,
        q.value<std::string>("type", type));
  check_keys(q);
  check(q.value("partial_rotary_factor", 1.0) == 1.0,
        "{}: partial_rotary_factor is {}, not implemented (allowed: 1)", q.where,
        q.value("partial_rotary_factor", 1.0));
  if (type == "default") return rope;
  check(q.has("factor"), "{}: key \"factor\" is missing", q.where);
  rope.factor = q.number("factor", 1, 1);
  rope.original_max_positions = q.positive("original_max_position_embeddings", max_positions);
  if (type == "linear") {
    rope.type = RopeType::kLinear;
  } else if (type == "dynamic") {
    rope.type = RopeType::kDynamic;
    rope.original_max_positions = max_positions;
  } else if (type == "yarn") {
    rope.type = RopeType::kYarn;
    rope.beta_fast = q.number("beta_fast", 32);
    rope.beta_slow = q.number("beta_slow", 1);
    rope.mscale = q.value("mscale", 1.0);
    rope.mscale_all_dim = q.value("mscale_all_dim", 0.0);
    rope.truncate = q.value("truncate", true);
    bool both = q.value("mscale", 0.0) != 0 && rope.mscale_all_dim != 0;
    rope.cos_scale =
        both ? yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim)
             : yarn_mscale(rope.factor, 1);
    rope.cos_scale_given = q.has("attention_factor");
    if (rope.cos_scale_given) rope.cos_scale = q.number("attention_factor", 1);
  } else {
    rope.type = RopeType::kLlama3;
    for (const char* k : {"low_freq_factor", "high_freq_factor"})
      check(q.has(k), "{}: key \"{}\" is missing", q.where, k);
    rope.low_freq = q.number("low_freq_factor", 1);
    rope.high_freq = q.number("high_freq_factor", 4);
    check(rope.high_freq > rope.low_freq, "{}: high_freq_factor is {}, must exceed {}", q.where,
          rope.high_freq, rope.low_freq);
  }
  return rope;
}

}  // namespace

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

RopeConfig read_rope(const Reader& r, double theta, int64_t max_positions,
                     const std::vector<std::string>& types) {
  RopeConfig rope;
  rope.theta = r.number("rope_theta", theta);
  rope.original_max_positions = max_positions;
  check(r.value("partial_rotary_factor", 1.0) == 1.0,
        "{}: partial_rotary_factor is {}, not implemented (allowed: 1)", r.where,
        r.value("partial_rotary_factor", 1.0));
  RopeConfig base = rope;
  bool five = r.has("rope_parameters"), four = r.has("rope_scaling");
  if (five) rope = read_object(r, "rope_parameters", base, max_positions, types);
  if (!four) return rope;
  if (five) base.theta = rope.theta;  // rope_parameters may hold it, rope_scaling does not
  RopeConfig old = read_object(r, "rope_scaling", base, max_positions, types);
  check(!five || old == rope, "{}: rope_parameters and rope_scaling differ: which one counts?",
        r.where);
  return old;
}

std::vector<double> inverse_frequencies(const RopeConfig& r, int64_t dim, int64_t length) {
  double D = static_cast<double>(dim), theta = r.theta;
  double original = static_cast<double>(r.original_max_positions);
  if (r.type == RopeType::kDynamic && length > r.original_max_positions)
    theta *=
        std::pow(r.factor * static_cast<double>(length) / original - (r.factor - 1), D / (D - 2));
  std::vector<double> f(dim / 2);
  for (int64_t i = 0; i < dim / 2; ++i) f[i] = std::pow(theta, -2.0 * static_cast<double>(i) / D);
  if (r.type == RopeType::kLinear) {
    for (double& x : f) x /= r.factor;
  } else if (r.type ==
             RopeType::kYarn) {  // eq. 23, and HF's linear ramp: the slow are interpolated
    double low = correction(r, dim, r.beta_fast), high = correction(r, dim, r.beta_slow);
    if (r.truncate) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, D - 1);
    if (low == high) high += 0.001;
    for (int64_t i = 0; i < dim / 2; ++i) {
      double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      f[i] = f[i] / r.factor * ramp + f[i] * (1 - ramp);
    }
  } else if (r.type == RopeType::kLlama3) {
    for (double& x : f) {
      double turns = original * x / (2 * std::numbers::pi);  // within the original context
      double keep = std::clamp((turns - r.low_freq) / (r.high_freq - r.low_freq), 0.0, 1.0);
      x = x / r.factor * (1 - keep) + x * keep;
    }
  }
  return f;
}

RopeAngles Rope::angles(const Tensor& positions, bool alone) const {
  int64_t T = positions.numel(), half = dim_ / 2;
  const int32_t* at = positions.i32();
  RopeAngles a{empty({T, half}), empty({T, half})};
  std::vector<double> grown;
  for (int64_t t = 0, end = 0; t < T; ++t) {
    if (config_.type == RopeType::kDynamic && t == end) {
      for (end = t + 1; !alone && end < T && at[end] != 0;) ++end;
      int64_t length = at[end - 1] + 1;
      grown = length > config_.original_max_positions ? inverse_frequencies(config_, dim_, length)
                                                      : inv_freq_;
    }
    const std::vector<double>& f = config_.type == RopeType::kDynamic ? grown : inv_freq_;
    for (int64_t i = 0; i < half; ++i) {
      // f32 products, as the reference computes them.
      float angle = static_cast<float>(at[t]) * static_cast<float>(f[i]);
      a.cos.row(t)[i] = static_cast<float>(std::cos(angle) * config_.cos_scale);
      a.sin.row(t)[i] = static_cast<float>(std::sin(angle) * config_.cos_scale);
    }
  }
  return a;
}

}  // namespace sutor
