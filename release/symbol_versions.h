// In front of every file of a Linux prebuild: functions whose newest version is newer than the C library of Node itself (2.28),
// and an older one that does the same. exp of 2.29 differs in errno alone.
#pragma once

#if defined(__x86_64__)
__asm__(".symver exp,exp@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver exp,exp@GLIBC_2.17");
#endif
