# The path in an error's object is the one that the error is about, whatever its message begins with.
#: not differs
named() {
    path=$1 && shift
    apb "$@" --json >out 2>err
    grep -q -F "\"path\":$path,\"exit_code\"" out || { echo "differs from $path: $(cat out)"; exit 9; }
}
mkdir data && mkdir -p org/name
echo '{' >questions.json
named '"x: y.safetensors"' generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method apb --heads 'x: y.safetensors'
named '"data/passkey.jsonl"' eval infinitebench --model "$MODEL" --data data --tasks passkey
named '"questions.json"' eval ruler --model "$MODEL" --squad questions.json --tasks qa_1
named '"nowhere.txt"' eval niah --model "$MODEL" --tokens 900 --haystack nowhere.txt
named '"nowhere"' session ask --model "$MODEL" --session nowhere --query Why?
named '"nowhere.gguf"' convert nowhere.gguf converted
named '"data"' convert-heads "$HEADS" data
python3 "$TOOLS/model.py" copy changed
echo '{}' >changed/tokenizer.json
named '"changed"' generate --model changed --document "$DOCUMENT" --query Why?
# An address is no path, and neither is a name for which there happens to be a folder.
export HF_ENDPOINT=http://127.0.0.1:9
named null fetch org/name --source hub
named null generate --model "$MODEL" --document "$DOCUMENT" --query ''
HF_HUB_OFFLINE=1 apb fetch org/name --source hub --json >out 2>err
grep -q '"path":"org/name"' out && echo "differs from the cache: $(cat out)"
exit 0
