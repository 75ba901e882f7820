#: stderr cut short
#: stderr model.safetensors
#: stdout ended with 1
python3 "$TOOLS/model.py" copy changed
mkfifo questions
apb chat --model changed --document "$DOCUMENT" --greedy --max-tokens 2 <questions >out &
chat=$!
exec 3>questions
echo Who? >&3
while [ ! -s out ]; do sleep 0.1; done
sleep 0.3
: > changed/model.safetensors
echo Why? >&3
wait $chat
echo "ended with $?"
