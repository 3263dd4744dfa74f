// CHECK: an assert that stays active in Release builds and says where and what.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (false)

// Passes when the statement throws shotstream::Error with that status.
#define CHECK_THROWS(statement, expected_status)            \
  do {                                                      \
    bool thrown = false;                                    \
    try {                                                   \
      static_cast<void>(statement);                         \
    } catch (const shotstream::Error& error) {              \
      thrown = true;                                        \
      CHECK(error.status() == shotstream::expected_status); \
      CHECK(error.what()[0] != '\0');                       \
    }                                                       \
    CHECK(thrown);                                          \
  } while (false)
