# It may fit or not; it ends.
#: seconds 30
#: not hang
apb plan --model "$MODEL" --tokens 1073741824 --ranks 100000000 --device h100 >out 2>&1
code=$?
[ "$code" = 0 ] || [ "$code" = 2 ] || [ "$code" = 5 ]
