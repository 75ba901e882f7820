//! What every transport must do. Each process runs it at the same time; values say where they come
//! from, so that each can check what it gets without asking.

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_apb::ranks::{RankGroup, Ranks};

/// Runs everything, with tensors of a device and so many ranks a process; `group` makes a group of them.
pub fn run(
    device: &Device,
    mut group: impl FnMut(usize) -> RankGroup,
    processes: usize,
    shares: &[usize],
) {
    for each in shares {
        let mut group = group(*each);
        assert_eq!(group.processes(), processes);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            all_gather(device, &mut group, dtype);
            shift(device, &mut group, dtype);
            all_to_all(device, &mut group, dtype);
        }
        several_at_once(device, &mut group);
        gather_processes(device, &mut group);
        large(device, &mut group);
        bytes(&mut group);
        traffic(device, &mut group);
    }
}

/// A tensor whose values, small enough for every dtype, tell `id` and their place.
fn tensor(device: &Device, shape: [usize; 4], id: usize, dtype: DType) -> Tensor<4> {
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|i| ((id * 31 + i * 7) % 251) as f32)
        .collect();
    let data = TensorData::new(values, shape);
    Tensor::<4>::from_data(data, (device, DType::F32)).cast(dtype)
}

fn assert_same(device: &Device, got: &Tensor<4>, shape: [usize; 4], id: usize, dtype: DType) {
    assert_eq!((got.dims(), got.dtype()), (shape, dtype));
    assert_eq!(got.device(), *device);
    let values = |tensor: Tensor<4>| {
        let data = tensor.cast(DType::F32).into_data();
        data.try_to_vec::<f32>().expect("f32")
    };
    assert_eq!(
        values(got.clone()),
        values(tensor(&Device::flex(), shape, id, dtype)),
        "{id} {shape:?}"
    );
}

fn all_gather(device: &Device, group: &mut RankGroup, dtype: DType) {
    let shape = [2, 3, 2, 4];
    let mine = group
        .ranks()
        .map(|rank| tensor(device, shape, rank, dtype))
        .collect();
    let pending = group.start_all_gather(mine).expect("started");
    let all = group.finish_all_gather(pending).expect("gathered");
    assert_eq!(all.len(), group.world_size());
    for (rank, tensor) in all.iter().enumerate() {
        assert_same(device, tensor, shape, rank, dtype);
    }
}

/// Every block, of its own length, comes past every rank.
fn shift(device: &Device, group: &mut RankGroup, dtype: DType) {
    let world = group.world_size();
    let shape = |owner: usize| [2, 1, 3 + owner % 3, 2];
    let mut held: Vec<_> = group
        .ranks()
        .map(|rank| tensor(device, shape(rank), rank, dtype))
        .collect();
    for step in 1..=world {
        let owner = |rank: usize| (rank + world - step % world) % world;
        let pending = group
            .start_shift(held, |rank| shape(owner(rank)))
            .expect("started");
        held = group.finish_shift(pending).expect("shifted");
        for (rank, block) in group.ranks().zip(&held) {
            assert_same(device, block, shape(owner(rank)), owner(rank), dtype);
        }
    }
}

/// Each pair has a shape of its own, some of them empty of rows.
fn all_to_all(device: &Device, group: &mut RankGroup, dtype: DType) {
    let world = group.world_size();
    let shape = |from: usize, to: usize| [1, 1 + to % 2, 1 + (from + 2 * to) % 3, 3];
    let id = |from: usize, to: usize| 100 + from * world + to;
    let outgoing = (group.ranks())
        .map(|from| {
            (0..world)
                .map(|to| tensor(device, shape(from, to), id(from, to), dtype))
                .collect()
        })
        .collect();
    let received = group.all_to_all(outgoing, shape).expect("exchanged");
    for (to, row) in group.ranks().zip(received) {
        assert_eq!(row.len(), world);
        for (from, tensor) in row.iter().enumerate() {
            assert_same(device, tensor, shape(from, to), id(from, to), dtype);
        }
    }
}

/// Exchanges may be under way beside each other and beside computing.
fn several_at_once(device: &Device, group: &mut RankGroup) {
    let world = group.world_size();
    let shape = [1, 2, 3, 4];
    let of = |ranks: Ranks, id: usize| {
        ranks
            .map(|rank| tensor(device, shape, id + rank, DType::F32))
            .collect::<Vec<_>>()
    };
    let gather = group
        .start_all_gather(of(group.ranks(), 0))
        .expect("started");
    let shift = group
        .start_shift(of(group.ranks(), 50), |_| shape)
        .expect("started");
    let computed = tensor(device, [1, 1, 64, 64], 1, DType::F32).matmul(tensor(
        device,
        [1, 1, 64, 64],
        2,
        DType::F32,
    ));
    assert_eq!(computed.dims(), [1, 1, 64, 64]);
    let shifted = group.finish_shift(shift).expect("shifted");
    for (rank, tensor) in group.ranks().zip(&shifted) {
        assert_same(
            device,
            tensor,
            shape,
            50 + (rank + world - 1) % world,
            DType::F32,
        );
    }
    for (rank, tensor) in group
        .finish_all_gather(gather)
        .expect("gathered")
        .iter()
        .enumerate()
    {
        assert_same(device, tensor, shape, rank, DType::F32);
    }
}

fn gather_processes(device: &Device, group: &mut RankGroup) {
    let process = (0..group.processes())
        .find(|process| group.ranks_of(*process) == group.ranks())
        .expect("this process");
    let shape = [1, 4, 2, 9];
    let all = group
        .gather_processes(tensor(device, shape, process, DType::F32))
        .expect("gathered");
    assert_eq!(all.len(), group.processes());
    for (process, tensor) in all.iter().enumerate() {
        assert_same(device, tensor, shape, process, DType::F32);
    }
}

/// More than any eager protocol or socket buffer takes at once.
fn large(device: &Device, group: &mut RankGroup) {
    let shape = [2, 8, 1024, 64];
    let world = group.world_size();
    let mine = group
        .ranks()
        .map(|rank| tensor(device, shape, rank, DType::F32))
        .collect();
    let pending = group.start_shift(mine, |_| shape).expect("started");
    let shifted = group.finish_shift(pending).expect("shifted");
    for (rank, tensor) in group.ranks().zip(&shifted) {
        assert_same(
            device,
            tensor,
            shape,
            (rank + world - 1) % world,
            DType::F32,
        );
    }
}

fn bytes(group: &mut RankGroup) {
    let first = group.ranks().contains(0);
    for length in [1, 5, 300_000] {
        let sent = if first {
            vec![7; length]
        } else {
            vec![0; length]
        };
        assert_eq!(group.broadcast(sent).expect("sent"), vec![7; length]);
    }
}

/// What came from other processes is counted, and nothing else.
fn traffic(device: &Device, group: &mut RankGroup) {
    let before = group.received_bytes();
    let shape = [2, 3, 5, 4];
    let mine = group
        .ranks()
        .map(|rank| tensor(device, shape, rank, DType::F16))
        .collect();
    let pending = group.start_all_gather(mine).expect("started");
    group.finish_all_gather(pending).expect("gathered");
    let others = group.world_size() - group.ranks().len();
    let bytes = others * 2 * 3 * 5 * 4 * 2;
    assert_eq!(group.received_bytes() - before, bytes as u64);
}
