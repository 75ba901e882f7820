#: exit 5
#: stderr none fits with 99999999999 tokens behind it, and with --following 0 the longest is
#: not weights
apb plan --model "$MODEL" --tokens 1073741824 --device h100 --following 99999999999 >out
