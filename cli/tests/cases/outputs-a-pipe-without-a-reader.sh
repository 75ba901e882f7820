# A pipe that no process reads is waited for, which is said, and which SIGTERM and Ctrl-C end.
#: stdout ended with 143 and 130
#: stdout a pipe with safetensors
#: seconds 40
mkfifo out
said() {
    until grep -q 'note: out is a pipe: waits for a process that reads it' err 2>/dev/null; do sleep 0.1; done
}
apb convert-heads "$HEADS" out >shown 2>err &
said
kill -TERM $!
wait $!
first=$?
rm err
apb eval niah --model "$MODEL" --tokens 900 --samples 1 --depths 50 --methods full --chart out >shown 2>err &
said
kill -INT $!
wait $!
echo "ended with $first and $?"
rm err
apb convert-heads "$HEADS" out >shown 2>err &
said
cat out >got
wait $! && [ -p out ] && head -c 200 got | grep -q F32 && echo 'a pipe with safetensors'
