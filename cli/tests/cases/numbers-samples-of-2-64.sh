#: exit 2
#: stderr --samples
apb eval niah --model "$MODEL" --tokens 200 --samples 18446744073709551615 --methods full
