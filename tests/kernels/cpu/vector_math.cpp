// The functions of vector.h over arrays, for test_vector_math.py. n is a multiple of the widest vector.
#include <string>

#include "vector.h"

using namespace eet;

extern "C" __attribute__((visibility("default"))) void vector_math(const char* name, const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec v = load(x + i);
    Vec sine, cosine;
    sine_cosine(v, &sine, &cosine);
    const std::string function = name;
    store(y + i, function == "exp"       ? exp(v)
                 : function == "log"     ? log(v)
                 : function == "tanh"    ? tanh(v)
                 : function == "erf"     ? erf(v)
                 : function == "sigmoid" ? sigmoid(v)
                 : function == "sin"     ? sine
                                         : cosine);
  }
}
