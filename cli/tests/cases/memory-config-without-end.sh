#: exit 2
#: mebibytes 1000
apb bench prefill --random-weights --model /dev/zero --tokens 64 --runs 1
