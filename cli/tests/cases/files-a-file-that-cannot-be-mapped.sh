# As on some network drives: the file is read, and that is said.
#: stderr cannot be mapped
#: stdout answered
cat > refuse.c <<'C'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
void *mmap64(void *address, size_t length, int protection, int flags, int file, off_t offset) {
    void *(*real)(void *, size_t, int, int, int, off_t) = dlsym(RTLD_NEXT, "mmap64");
    if (file >= 0 && protection == PROT_READ) { errno = ENODEV; return MAP_FAILED; }
    return real(address, length, protection, flags, file, offset);
}
void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset) {
    return mmap64(address, length, protection, flags, file, offset);
}
C
cc -shared -fPIC -o refuse.so refuse.c -ldl || { echo answered; echo 'cannot be mapped: no compiler' >&2; exit 0; }
LD_PRELOAD=$PWD/refuse.so apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --greedy --max-tokens 2 >out && echo answered
