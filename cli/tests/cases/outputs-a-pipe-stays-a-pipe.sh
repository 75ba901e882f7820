#: stdout a pipe with safetensors
mkfifo out
cat out >got &
apb convert-heads "$HEADS" out --quiet >shown
wait
[ -p out ] && head -c 200 got | grep -q F32 && echo 'a pipe with safetensors'
