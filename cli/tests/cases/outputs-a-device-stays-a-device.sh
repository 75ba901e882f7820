# A device of this case's own, where one can be made: what must not happen would end /dev/null.
#: stdout a device
mknod null c 1 3 2>/dev/null && [ -w null ] || ln -sf /dev/null null
apb convert-heads "$HEADS" null --quiet >shown
apb bench prefill --random-weights --model "$MODEL" --tokens 64 --runs 1 --decode 0 --chart null --quiet >shown
[ -c null ] && echo 'a device'
