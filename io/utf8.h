#pragma once
// UTF-8 by code points, and the classes of characters that tokenizers and templates ask for
// (tables: utf8proc).

#include <cstddef>
#include <string>
#include <string_view>

namespace sutor {

// Decodes one code point of valid UTF-8 at s[i] and moves i past it.
char32_t next_char(std::string_view s, size_t& i);
void append_utf8(std::string& out, char32_t c);
// Start of the code point that ends before s[i].
size_t char_before(std::string_view s, size_t i);
size_t count_chars(std::string_view s);

bool is_space(char32_t c);  // Unicode's White_Space
bool is_numeric(char32_t c);
bool is_punctuation(char32_t c);
bool is_word(char32_t c);
bool is_alphabetic(char32_t c);  // categories L*
bool is_upper(char32_t c);
bool is_lower(char32_t c);
char32_t to_upper(char32_t c);
char32_t to_lower(char32_t c);

bool is_utf8(std::string_view s);
// Ill-formed bytes become U+FFFD, one per maximal subpart (Unicode 3.9), as Python and Rust do.
std::string replace_invalid(std::string_view s);

}  // namespace sutor
