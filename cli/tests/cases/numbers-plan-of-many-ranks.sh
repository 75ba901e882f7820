#: exit 2
#: seconds 20
apb plan --model "$MODEL" --tokens 18446744073709551615 --ranks 9223372036854775808 --device h100
