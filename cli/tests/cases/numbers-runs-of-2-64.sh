#: exit 2
#: stderr --runs is
apb bench prefill --random-weights --model "$MODEL" --tokens 64 --runs 18446744073709551615
