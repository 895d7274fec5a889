// What a compiled instance shows to its launcher: its parameters' types, and a launch. The launcher generates `instance.cpp`:
//     #include "embed.cu"
//     #include "entry.h"
//     SIM_ENTRY(embed<half, 96, 1>)
#pragma once

#include <utility>

namespace sim {

// One code a parameter: p<element> for a pointer, else the scalar's own. `v` as element accepts any array.
template <typename T> struct Code;
template <> struct Code<void> { static constexpr const char* value = "void"; };
template <> struct Code<float> { static constexpr const char* value = "float32"; };
template <> struct Code<__half> { static constexpr const char* value = "float16"; };
template <> struct Code<__nv_bfloat16> { static constexpr const char* value = "bfloat16"; };
template <> struct Code<int8_t> { static constexpr const char* value = "int8"; };
template <> struct Code<uint8_t> { static constexpr const char* value = "uint8"; };
template <> struct Code<int32_t> { static constexpr const char* value = "int32"; };
template <> struct Code<uint32_t> { static constexpr const char* value = "uint32"; };
template <> struct Code<int64_t> { static constexpr const char* value = "int64"; };
template <> struct Code<uint64_t> { static constexpr const char* value = "uint64"; };
template <> struct Code<unsigned long long> { static constexpr const char* value = "uint64"; };

template <typename T> struct Parameter {
    static void append(char* text) { std::strcat(text, Code<T>::value); }
};
template <typename T> struct Parameter<T*> {
    static void append(char* text) {
        std::strcat(text, "*");
        std::strcat(text, Code<std::remove_cv_t<T>>::value);
    }
};

template <auto Kernel> struct Instance;
template <typename... P, void (*Kernel)(P...)>
struct Instance<Kernel> {
    template <size_t... I>
    static void call(void** arguments, std::index_sequence<I...>) {
        Kernel(*static_cast<std::remove_cv_t<P>*>(arguments[I])...);
    }
    static void run(void* arguments) { call(static_cast<void**>(arguments), std::index_sequence_for<P...>{}); }
    static const char* signature() {   // "*float16,*int32,int32,float32"
        static char text[sizeof...(P) * 10 + 1];
        text[0] = 0;
        ((Parameter<std::remove_cv_t<P>>::append(text), std::strcat(text, ",")), ...);
        if (text[0]) text[std::strlen(text) - 1] = 0;
        return text;
    }
};

}  // namespace sim

#define SIM_ENTRY(...)                                                                                            \
    extern "C" const char* sim_signature() { return sim::Instance<__VA_ARGS__>::signature(); }                        \
    extern "C" int sim_launch(const sim::Launch* launch, void** arguments, char* message, size_t message_bytes) {  \
        return sim::sim_run(launch, sim::Instance<__VA_ARGS__>::run, arguments, message, message_bytes);              \
    }
