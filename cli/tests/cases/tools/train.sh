# Starts a training that does not end of itself: `$training` is its process, and the current folder its run's, which has a
# round.
printf '{"document": "The code of the door is %s.", "question": "What is the code?", "answer": "%s"}\n' 12 12 34 34 >data
apb train-heads --model "$MODEL" --data data --held-out 0 --steps 100000 --round 1 --patience 100000 --out heads.safetensors &
training=$!
while [ ! -f heads.safetensors.training/rounds.json ]; do sleep 0.05; done
cd heads.safetensors.training || exit 9
