/* Included before llama.cpp's sources: _tile_loadconfig of GCC up to 12.3 and 13.2 tells the optimiser that it reads 8
   bytes of the 64 (GCC bug 114098). The rest of llama.cpp's tile configuration is then left out, and its AMX kernels end
   with an illegal instruction. */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
#endif
