// What the C++ test programs share.
#pragma once

#include <cstdlib>
#include <iostream>

#include <roletalk.hpp>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            std::cerr << __FILE__ << ":" << __LINE__ << ": " << #condition << "\n";                \
            std::abort();                                                                          \
        }                                                                                          \
    } while (0)

/// The status of the error that a call throws.
template <class Call> roletalk_status status_of(Call call) {
    try {
        call();
        return ROLETALK_STATUS_OK;
    } catch (const roletalk::Error &error) {
        return error.status();
    }
}
