# Starts the lying hub with the given headers and points `apb` at it.
start_hub() {
    python3 "$TOOLS/hub.py" port "$@" &
    while [ ! -f port ]; do sleep 0.05; done
    export HF_ENDPOINT="http://127.0.0.1:$(cat port)"
}
