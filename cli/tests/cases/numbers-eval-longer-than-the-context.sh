#: exit 2
#: stderr 4096
#: seconds 20
apb eval niah --model "$MODEL" --tokens 1000000000 --samples 1 --methods full
