# Neither the lines of metrics nor a checkpoint may end in a panic.
#: exit 1
#: stderr Loss.log: cannot be written
#: stderr free some space
printf '{"document": "The code of the door is %s.", "question": "What is the code?", "answer": "%s"}\n' 12 12 34 34 >data
apb train-heads --model "$MODEL" --data data --held-out 0 --steps 100000 --round 1 --patience 100000 --out heads.safetensors &
training=$!
while [ ! -f heads.safetensors.training/rounds.json ]; do sleep 0.05; done
cd heads.safetensors.training || exit 9
for round in $(seq 1 200); do
    mkdir -p train/epoch-$round
    ln -s /dev/full train/epoch-$round/Loss.log 2>/dev/null
done
wait $training
