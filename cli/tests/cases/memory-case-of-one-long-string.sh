# The message is short whatever the file holds.
#: exit 2
#: seconds 30
#: mebibytes 2000
python3 -c 'print("\"" + "a" * 60000000 + "\"", end="")' >big
apb trace --case big --model "$MODEL" --out got.safetensors 2>err
code=$?
[ "$(wc -c <err)" -lt 2000 ] || exit 9
exit $code
