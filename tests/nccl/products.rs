//! Products by cuBLASLt: equal to a loop, to the last bit, and in order with copies and exchanges.

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_apb::cuda::Order;
use burn_apb::cuda::products::{Element, Matrices, Problem, Products};
use burn_apb::ranks::Environment;
use cudarc::driver::result::{malloc_sync, memcpy_dtoh_async, memcpy_htod_async};
use cudarc::driver::sys::CUdeviceptr;
use half::{bf16, f16};

use crate::launcher::{join, task};
use crate::noise::noise;
use crate::transport::run;

/// Rows, columns and outputs of a layer's products: queries, keys, an MLP up and down, and one row alone.
const SHAPES: [[usize; 3]; 5] = [
    [33, 32, 64],
    [33, 32, 16],
    [9, 32, 48],
    [9, 48, 32],
    [1, 32, 64],
];
const ELEMENTS: [Element; 3] = [Element::F32, Element::F16, Element::Bf16];
/// Elements between two stored rows of a weight.
const GAP: usize = 8;
/// Bytes of the device that hold the matrices of any product here.
const ROOM: usize = 1 << 20;
/// What a matrix begins at a multiple of.
const ALIGNMENT: usize = 256;

/// A product, but for the rows that it is of.
#[derive(Clone, Copy, Debug)]
struct Case {
    element: Element,
    shape: [usize; 3],
    transposed: bool,
    bias: bool,
}

fn cases() -> impl Iterator<Item = Case> {
    let shapes = ELEMENTS.map(|element| SHAPES.map(|shape| (element, shape)));
    shapes.into_iter().flatten().flat_map(|(element, shape)| {
        [(true, false), (true, true), (false, true)].map(|(transposed, bias)| Case {
            element,
            shape,
            transposed,
            bias,
        })
    })
}

impl Case {
    /// Values that the element type holds.
    fn values(&self, count: usize, seed: u64) -> Vec<f32> {
        let values = noise([count], seed).into_data().try_to_vec::<f32>();
        let values = values.expect("f32");
        values.into_iter().map(|x| self.rounded(x)).collect()
    }

    fn rounded(&self, x: f32) -> f32 {
        match self.element {
            Element::F32 => x,
            Element::F16 => f16::from_f32(x).to_f32(),
            Element::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }

    fn bytes(&self, values: &[f32]) -> Vec<u8> {
        let bytes = values.iter().flat_map(|x| match self.element {
            Element::F32 => x.to_le_bytes().to_vec(),
            Element::F16 => f16::from_f32(*x).to_le_bytes().to_vec(),
            Element::Bf16 => bf16::from_f32(*x).to_le_bytes().to_vec(),
        });
        bytes.collect()
    }

    fn dtype(&self) -> DType {
        match self.element {
            Element::F32 => DType::F32,
            Element::F16 => DType::F16,
            Element::Bf16 => DType::BF16,
        }
    }

    /// The rows of a process `[rows, d_input]`.
    fn rows(&self, process: usize) -> Vec<f32> {
        let [rows, d_input, _] = self.shape;
        self.values(rows * d_input, 10 + process as u64)
    }

    /// Stored rows of the weight, and elements from one to the next.
    fn stored(&self) -> [usize; 2] {
        let [_, d_input, d_output] = self.shape;
        match self.transposed {
            true => [d_output, d_input + GAP],
            false => [d_input, d_output + GAP],
        }
    }

    fn weight(&self) -> Vec<f32> {
        let [stored, pitch] = self.stored();
        self.values(stored * pitch, 1)
    }

    fn bias(&self) -> Vec<f32> {
        let [_, _, d_output] = self.shape;
        self.values(d_output, 2)
    }

    /// The product of rows, summed in f32 in the order of the terms, and rounded once.
    fn expected(&self, x: &[f32]) -> Vec<u8> {
        let [rows, d_input, d_output] = self.shape;
        let (weight, bias, [_, pitch]) = (self.weight(), self.bias(), self.stored());
        let mut out = Vec::with_capacity(rows * d_output);
        for row in 0..rows {
            for (column, bias) in bias.iter().enumerate() {
                let mut sum = 0f32;
                for term in 0..d_input {
                    let at = match self.transposed {
                        true => column * pitch + term,
                        false => term * pitch + column,
                    };
                    sum += weight[at] * x[row * d_input + term];
                }
                if self.bias {
                    sum += bias;
                }
                out.push(sum);
            }
        }
        self.bytes(&out)
    }
}

/// A GPU's products, and copies on a stream of their own, as CubeCL's are.
struct Gpu {
    copies: Order,
    products: Products,
    memory: CUdeviceptr,
}

impl Gpu {
    fn new(device: usize) -> Self {
        let copies = Order::new(device).expect("a stream");
        let products = Products::new(device).expect("a handle");
        let memory = copies.within(|_| {
            // SAFETY: the process has it until its end.
            unsafe { malloc_sync(ROOM) }.map_err(|error| format!("{error:?}"))
        });
        Self {
            copies,
            products,
            memory: memory.expect("memory"),
        }
    }

    /// The product of rows in bytes: what goes to the device and comes back is ordered by events alone.
    fn product(&mut self, case: Case, x: &[u8]) -> Vec<u8> {
        let [rows, d_input, d_output] = case.shape;
        let (weight, bias) = (case.bytes(&case.weight()), case.bytes(&case.bias()));
        let mut out = vec![0u8; rows * d_output * case.dtype().size()];
        let mut next = self.memory;
        let mut place = |bytes: usize| {
            let at = next;
            next += bytes.next_multiple_of(ALIGNMENT) as u64;
            at
        };
        let (x_at, weight_at, bias_at) = (place(x.len()), place(weight.len()), place(bias.len()));
        let matrices = Matrices {
            x: x_at,
            weight: weight_at,
            bias: case.bias.then_some(bias_at),
            out: place(out.len()),
        };
        assert!(next - self.memory <= ROOM as u64);
        let problem = Problem {
            rows,
            d_input,
            d_output,
            element: case.element,
            transposed: case.transposed,
            pitch: case.stored()[1],
            bias: case.bias,
            aligned: matrices.alignment(),
        };
        let there = self.copies.within(|stream| {
            for (at, bytes) in [(x_at, x), (weight_at, &weight[..]), (bias_at, &bias[..])] {
                // SAFETY: the memory has room for them, and they live until the stream is synchronised.
                unsafe { memcpy_htod_async(at, bytes, stream) }
                    .map_err(|error| format!("{error:?}"))?;
            }
            Ok(())
        });
        there.expect("copies to the device");
        // SAFETY: the matrices have room for the problem, and are not freed.
        let ran = unsafe { self.products.run(&problem, &matrices) };
        ran.expect("a product");
        let back = self.copies.within(|stream| {
            // SAFETY: as above.
            unsafe { memcpy_dtoh_async(&mut out[..], matrices.out, stream) }
                .map_err(|error| format!("{error:?}"))
        });
        back.expect("a copy from the device");
        self.copies.sync().expect("copied");
        out
    }
}

/// The start of what is said where a product is wrong.
const WRONG: &str = "elements of a product are wrong";

#[track_caller]
fn assert_same(case: Case, got: &[u8], expected: &[u8]) {
    assert_eq!(got.len(), expected.len());
    let size = case.dtype().size();
    let pairs = got.chunks(size).zip(expected.chunks(size));
    let wrong = pairs.filter(|(got, expected)| got != expected).count();
    assert!(wrong == 0, "{wrong} {WRONG}: {case:?}");
}

/// Products between copies, on one GPU.
pub fn between_copies() {
    let mut gpu = Gpu::new(0);
    for case in cases() {
        let x = case.rows(0);
        let got = gpu.product(case, &case.bytes(&x));
        assert_same(case, &got, &case.expected(&x));
    }
    println!("process 0 done");
}

/// One process of those that exchange rows, multiply, and exchange what comes of it.
pub fn process(environment: &Environment) {
    let device = Device::flex();
    let world = join(environment);
    let (me, processes) = (world.process(), world.processes());
    let mut group = world.group(processes).expect("even");
    let mut gpu = Gpu::new(environment.local_process);
    let before = |process: usize| (process + processes - 1) % processes;
    for case in cases() {
        let [rows, d_input, d_output] = case.shape;
        let tensor = |bytes: Vec<u8>, width: usize| {
            let data = TensorData::from_bytes_vec(bytes, [1, 1, rows, width], case.dtype());
            Tensor::<4>::from_data(data, (&device, case.dtype()))
        };
        let own = case.rows(me);
        let moving = vec![tensor(case.bytes(&own), d_input)];
        let pending = group.start_shift(moving, |_| [1, 1, rows, d_input]);
        let pending = pending.expect("started");
        // While they travel.
        let got = gpu.product(case, &case.bytes(&own));
        assert_same(case, &got, &case.expected(&own));
        let mut received = group.finish_shift(pending).expect("shifted");
        let received = received.remove(0).into_data();
        let theirs = case.rows(before(me));
        assert_same(case, received.as_bytes(), &case.bytes(&theirs));
        let got = gpu.product(case, received.as_bytes());
        let all = group.gather_processes(tensor(got, d_output));
        let all = all.expect("gathered");
        assert_eq!(all.len(), processes);
        for (process, product) in all.into_iter().enumerate() {
            let product = product.into_data();
            let rows = case.rows(before(process));
            assert_same(case, product.as_bytes(), &case.expected(&rows));
        }
    }
    world.leave().expect("left");
    println!("process {me} done");
}

/// The product that is tried at the start.
pub fn test() {
    let tried = Products::new(0).and_then(|mut products| products.test());
    println!("tried: {tried:?}");
}

#[test]
fn products_between_copies() {
    let mut command = task(1, "copies");
    command.env("STAND_IN_JITTER", "21");
    run(command, 1);
}

/// Where an event is not recorded, or not waited for, products are wrong: the test above would see it.
#[test]
fn an_order_that_is_missing() {
    for fault in ["record", "wait"] {
        let mut command = task(1, "copies");
        command
            .env("STAND_IN_JITTER", "22")
            .env("STAND_IN_CUDA_FAULT", fault);
        let done = command.output().expect("it starts");
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success(), "{fault}");
        assert!(stderr.contains(WRONG), "{fault}: {stderr}");
    }
}

#[test]
fn the_first_product_decides() {
    for (fault, expected) in [
        ("", "tried: Ok(())"),
        ("wrong", "tried: Err(\"a product at row 79, column 63 is"),
        ("error", "tried: Err(\"cublasLtMatmul: "),
        ("none", "tried: Err(\"cublasLtMatmulAlgoGetHeuristic: "),
        ("create", "tried: Err(\"cublasLtCreate: "),
    ] {
        let mut command = task(1, "test");
        command.env("STAND_IN_LT_FAULT", fault);
        let done = command.output().expect("it starts");
        let stdout = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{fault}: {stdout}");
        assert!(stdout.contains(expected), "{fault}: {stdout}");
    }
}

fn of_a_layer(processes: usize) {
    let mut command = task(processes, "products");
    command.env("STAND_IN_JITTER", (22 + processes).to_string());
    run(command, processes);
}

#[test]
fn of_a_layer_over_2_processes() {
    of_a_layer(2);
}

#[test]
fn of_a_layer_over_4_processes() {
    of_a_layer(4);
}

#[test]
fn of_a_layer_over_8_processes() {
    of_a_layer(8);
}
