#: exit 2
#: stderr --tokens
apb bench prefill --random-weights --model "$MODEL" --tokens 1000000000000 --runs 1
