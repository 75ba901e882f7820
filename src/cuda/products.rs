//! The library's handle, a plan for each problem, and the product.
//!
//! cuBLASLt stores matrices by columns. `out [rows, d_output]` by rows is `out^T` by columns, so it is asked for
//! `weight^T x^T`: the weight is its first matrix, the rows of `x` are the columns of its second.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::size_of_val;

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtHandle_t, cublasLtMatmulAlgo_t,
    cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as Attribute,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtMatrixLayout_t,
    cublasLtReductionScheme_t, cudaDataType,
};
use cudarc::driver::result::{free_sync, malloc_sync, memcpy_dtoh_sync, memcpy_htod_sync};
use cudarc::driver::sys::CUdeviceptr;
use half::bf16;

use super::{Order, Turn, driver_version};

/// Scratch memory of a product, in bytes: NVIDIA's recommendation for Hopper.
const WORKSPACE: usize = 32 << 20;
/// The most plans that are kept; lengths that vary would otherwise fill the memory.
const PLANS: usize = 1024;
/// The largest alignment that is asked for, in bytes.
const ALIGNMENT: u32 = 256;
/// Rows and columns of the product that is tried at the start, in bf16.
const TEST: [usize; 3] = [80, 96, 64];

/// What a matrix holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// `f32`.
    F32,
    /// `f16`.
    F16,
    /// `bf16`.
    Bf16,
}

impl Element {
    fn cuda(self) -> cudaDataType {
        match self {
            Self::F32 => cudaDataType::CUDA_R_32F,
            Self::F16 => cudaDataType::CUDA_R_16F,
            Self::Bf16 => cudaDataType::CUDA_R_16BF,
        }
    }
}

/// `x [rows, d_input]` by `weight [d_input, d_output]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Rows of `x`.
    pub rows: usize,
    /// Columns of `x`.
    pub d_input: usize,
    /// Columns of the output.
    pub d_output: usize,
    /// Of all matrices; sums are f32.
    pub element: Element,
    /// Whether the weight is stored as `[d_output, d_input]`.
    pub transposed: bool,
    /// Elements from one stored row of the weight to the next.
    pub pitch: usize,
    /// Whether a vector `[d_output]` is added.
    pub bias: bool,
    /// What every address is a multiple of, in bytes.
    pub aligned: u32,
}

/// Addresses on the device.
#[derive(Clone, Copy, Debug)]
pub struct Matrices {
    /// `[rows, d_input]`, contiguous.
    pub x: CUdeviceptr,
    /// `[d_input, d_output]`, stored as the problem says.
    pub weight: CUdeviceptr,
    /// `[d_output]`.
    pub bias: Option<CUdeviceptr>,
    /// `[rows, d_output]`, contiguous.
    pub out: CUdeviceptr,
}

impl Matrices {
    /// What every address is a multiple of, in bytes.
    pub fn alignment(&self) -> u32 {
        let all = self.x | self.weight | self.out | self.bias.unwrap_or(0);
        1 << all.trailing_zeros().min(ALIGNMENT.trailing_zeros())
    }
}

fn failed(step: &'static str) -> impl Fn(CublasError) -> String {
    move |error| format!("{step}: {error:?}")
}

/// The library's version, where it and the driver can be used.
pub fn version() -> Result<String, String> {
    driver_version()?;
    // SAFETY: only tries to open the library by its usual names.
    if !unsafe { sys::is_culib_present() } {
        return Err(
            "no libcublasLt: install the CUDA toolkit, or PyPI's nvidia-cublas, and put its lib folder on \
             LD_LIBRARY_PATH"
                .into(),
        );
    }
    // SAFETY: the library is there, and has had this function since its first version.
    let version = unsafe { sys::cublasLtGetVersion() };
    // 130101 of version 13.1.1, 120805 of 12.8.5.
    Ok(format!(
        "{}.{}.{}",
        version / 10_000,
        version / 100 % 100,
        version % 100
    ))
}

/// One device's handle, with what it has planned.
#[derive(Debug)]
pub struct Products {
    order: Order,
    turn: Turn,
    handle: cublasLtHandle_t,
    workspace: CUdeviceptr,
    /// What the library refused once it is not asked for again.
    plans: HashMap<Problem, Result<Plan, String>>,
}

// SAFETY: the handle and its descriptions may be used from any thread, one at a time.
unsafe impl Send for Products {}

impl Products {
    /// A handle on device `index`.
    pub fn new(index: usize) -> Result<Self, String> {
        version()?;
        let order = Order::new(index)?;
        let (handle, workspace) = order.within(|_| {
            let handle = lt::create_handle().map_err(failed("cublasLtCreate"))?;
            // SAFETY: the memory is used on the stream alone, by one product after another.
            let workspace = unsafe { malloc_sync(WORKSPACE) };
            Ok((
                handle,
                workspace.map_err(|error| format!("cuMemAlloc: {error:?}"))?,
            ))
        })?;
        let turn = order.turn()?;
        Ok(Self {
            order,
            turn,
            handle,
            workspace,
            plans: HashMap::new(),
        })
    }

    /// Puts a product on the device, behind all that was submitted to it before.
    ///
    /// # Safety
    ///
    /// The addresses are of this handle's device, and as aligned as the problem says; there is a bias where it has one. The
    /// matrices have its sizes, and stay there until the work is in order.
    pub unsafe fn run(&mut self, problem: &Problem, at: &Matrices) -> Result<(), String> {
        let handle = self.handle;
        if !self.plans.contains_key(problem) {
            if self.plans.len() >= PLANS {
                self.plans.clear();
            }
            let plan = self.order.within(|_| Plan::new(handle, problem));
            if let Err(error) = &plan {
                tracing::warn!(%error, ?problem, "cuBLASLt refused a product; Burn's serves");
            }
            self.plans.insert(*problem, plan);
        }
        let plan = self.plans[problem].as_ref().map_err(String::clone)?;
        let workspace = self.workspace;
        self.order.run(&mut self.turn, |stream| {
            if let Some(bias) = at.bias {
                set(
                    plan.description,
                    Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                    &bias,
                )?;
            }
            let (one, zero) = (1f32, 0f32);
            // SAFETY: the plan's layouts are those of the problem; its matrices are at these addresses by the caller's
            // promise.
            unsafe {
                lt::matmul(
                    handle,
                    plan.description,
                    (&raw const one).cast(),
                    (&raw const zero).cast(),
                    at.weight as *const c_void,
                    plan.weight,
                    at.x as *const c_void,
                    plan.x,
                    at.out as *const c_void,
                    plan.out,
                    at.out as *mut c_void,
                    plan.out,
                    &raw const plan.algorithm,
                    workspace as *mut c_void,
                    WORKSPACE,
                    stream.cast(),
                )
            }
            .map_err(failed("cublasLtMatmul"))
        })
    }

    /// Whether a small product is right.
    pub fn test(&mut self) -> Result<(), String> {
        let [rows, d_input, d_output] = TEST;
        let value = |index: usize| bf16::from_f32(((index * 37 + 11) % 61) as f32 / 30.0 - 1.0);
        let x: Vec<bf16> = (0..rows * d_input).map(value).collect();
        // Stored as `[d_output, d_input]`.
        let weight: Vec<bf16> = (0..d_output * d_input)
            .map(|index| value(index + 7))
            .collect();
        let bias: Vec<bf16> = (0..d_output).map(|index| value(index + 3)).collect();
        let mut got = vec![bf16::NAN; rows * d_output];

        let all = [&x, &weight, &bias, &got]
            .map(|part| size_of_val(part.as_slice()).next_multiple_of(256));
        let memory = self.order.within(|_| {
            // SAFETY: freed below, when the stream is idle.
            unsafe { malloc_sync(all.iter().sum()) }
                .map_err(|error| format!("cuMemAlloc: {error:?}"))
        })?;
        let at: Vec<CUdeviceptr> = all
            .iter()
            .scan(memory, |next, size| {
                let at = *next;
                *next += *size as u64;
                Some(at)
            })
            .collect();
        let matrices = Matrices {
            x: at[0],
            weight: at[1],
            bias: Some(at[2]),
            out: at[3],
        };
        let problem = Problem {
            rows,
            d_input,
            d_output,
            element: Element::Bf16,
            transposed: true,
            pitch: d_input,
            bias: true,
            aligned: matrices.alignment(),
        };
        let copied = self.order.within(|_| {
            for (part, at) in [(&x, at[0]), (&weight, at[1]), (&bias, at[2]), (&got, at[3])] {
                // SAFETY: the memory was allocated for these parts.
                unsafe { memcpy_htod_sync(at, part) }
                    .map_err(|error| format!("to the device: {error:?}"))?;
            }
            Ok(())
        });
        let ran = copied
            .and_then(|()| {
                // SAFETY: the memory was allocated for these matrices, and is freed when the stream is idle or has failed.
                unsafe { self.run(&problem, &matrices) }
            })
            .and_then(|()| self.order.sync());
        let read = ran.and_then(|()| {
            self.order.within(|_| {
                // SAFETY: the memory was allocated for it, and is written.
                unsafe { memcpy_dtoh_sync(&mut got, at[3]) }
                    .map_err(|error| format!("from the device: {error:?}"))
            })
        });
        let freed = self.order.within(|_| {
            // SAFETY: allocated above; the stream is idle, or has failed.
            unsafe { free_sync(memory) }.map_err(|error| format!("cuMemFree: {error:?}"))
        });
        read.and(freed)?;
        check(&x, &weight, &bias, &got)
    }
}

/// Compares a product with one in f64.
fn check(x: &[bf16], weight: &[bf16], bias: &[bf16], got: &[bf16]) -> Result<(), String> {
    let [rows, d_input, d_output] = TEST;
    for row in 0..rows {
        for column in 0..d_output {
            let terms = (0..d_input)
                .map(|k| x[row * d_input + k].to_f64() * weight[column * d_input + k].to_f64());
            let expected = terms.sum::<f64>() + bias[column].to_f64();
            let found = got[row * d_output + column].to_f64();
            // One rounding to bf16, and sums in f32.
            let allowed = expected.abs() / 128.0 + 1e-3;
            if (found - expected).abs() > allowed || found.is_nan() {
                return Err(format!(
                    "a product at row {row}, column {column} is {found}, expected {expected}"
                ));
            }
        }
    }
    Ok(())
}

/// How the library computes a problem.
struct Plan {
    description: cublasLtMatmulDesc_t,
    weight: cublasLtMatrixLayout_t,
    x: cublasLtMatrixLayout_t,
    out: cublasLtMatrixLayout_t,
    algorithm: cublasLtMatmulAlgo_t,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").finish_non_exhaustive()
    }
}

/// Sets an attribute of a description.
fn set<T>(
    description: cublasLtMatmulDesc_t,
    attribute: Attribute,
    value: &T,
) -> Result<(), String> {
    // SAFETY: the description is alive, and the value of the attribute's type.
    let set = unsafe {
        lt::set_matmul_desc_attribute(
            description,
            attribute,
            (&raw const *value).cast(),
            size_of::<T>(),
        )
    };
    set.map_err(failed("cublasLtMatmulDescSetAttribute"))
}

impl Plan {
    fn new(handle: cublasLtHandle_t, problem: &Problem) -> Result<Self, String> {
        let kind = problem.element.cuda();
        let layout = |rows: usize, columns: usize, pitch: usize| {
            let layout = lt::create_matrix_layout(kind, rows as u64, columns as u64, pitch as i64);
            layout.map_err(failed("cublasLtMatrixLayoutCreate"))
        };
        let (rows, d_input, d_output) = (problem.rows, problem.d_input, problem.d_output);
        // A dropped plan frees what it has: fields are null until they are made.
        let mut plan = Self {
            description: std::ptr::null_mut(),
            weight: std::ptr::null_mut(),
            x: std::ptr::null_mut(),
            out: std::ptr::null_mut(),
            algorithm: cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        plan.description = lt::create_matmul_desc(
            cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cudaDataType::CUDA_R_32F,
        )
        .map_err(failed("cublasLtMatmulDescCreate"))?;
        plan.weight = match problem.transposed {
            true => layout(d_input, d_output, problem.pitch)?,
            false => layout(d_output, d_input, problem.pitch)?,
        };
        plan.x = layout(d_input, rows, d_input)?;
        plan.out = layout(d_output, rows, d_output)?;
        // 1 asks for the transposed of a matrix, in `cublasOperation_t`.
        set(
            plan.description,
            Attribute::CUBLASLT_MATMUL_DESC_TRANSA,
            &i32::from(problem.transposed),
        )?;
        if problem.bias {
            let epilogue = cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            set(
                plan.description,
                Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE,
                &epilogue,
            )?;
        }
        plan.algorithm = algorithm(handle, &plan, problem.aligned)?;
        Ok(plan)
    }
}

/// The library's choice.
fn algorithm(
    handle: cublasLtHandle_t,
    plan: &Plan,
    aligned: u32,
) -> Result<cublasLtMatmulAlgo_t, String> {
    let preference = lt::create_matmul_pref().map_err(failed("cublasLtMatmulPreferenceCreate"))?;
    let set = |attribute, value: *const c_void, size| {
        // SAFETY: the preference is alive, and the value of the attribute's type.
        unsafe { lt::set_matmul_pref_attribute(preference, attribute, value, size) }
    };
    let limits = || {
        let bytes = WORKSPACE;
        set(
            Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            (&raw const bytes).cast(),
            size_of_val(&bytes),
        )?;
        // Parts of a sum are added in f32, never in the type of the output.
        let schemes = cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        set(
            Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            (&raw const schemes).cast(),
            size_of_val(&schemes),
        )?;
        for attribute in [
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            set(
                attribute,
                (&raw const aligned).cast(),
                size_of_val(&aligned),
            )?;
        }
        // SAFETY: handle, description, layouts and preference are alive.
        unsafe {
            lt::get_matmul_algo_heuristic(
                handle,
                plan.description,
                plan.weight,
                plan.x,
                plan.out,
                plan.out,
                preference,
            )
        }
    };
    let found = limits()
        .map(|found| found.algo)
        .map_err(failed("cublasLtMatmulAlgoGetHeuristic"));
    // SAFETY: made above, and used no more.
    let freed = unsafe { lt::destroy_matmul_pref(preference) };
    freed.map_err(failed("cublasLtMatmulPreferenceDestroy"))?;
    found
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: each was made by this plan, or is null; what was submitted with it keeps its own copy.
        unsafe {
            if !self.description.is_null() {
                let _ = lt::destroy_matmul_desc(self.description);
            }
            for layout in [self.weight, self.x, self.out] {
                if !layout.is_null() {
                    let _ = lt::destroy_matrix_layout(layout);
                }
            }
        }
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        self.plans.clear();
        let (handle, workspace) = (self.handle, self.workspace);
        let freed = self.order.sync().and_then(|()| {
            self.order.within(|_| {
                // SAFETY: the stream is idle, and nothing else holds them.
                unsafe {
                    lt::destroy_handle(handle).map_err(failed("cublasLtDestroy"))?;
                    free_sync(workspace).map_err(|error| format!("cuMemFree: {error:?}"))
                }
            })
        });
        if let Err(error) = freed {
            tracing::debug!(%error, "a handle was left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_is_that_of_the_least_aligned_address() {
        let at = |x, bias| Matrices {
            x,
            weight: 0x7f00_0000_0000,
            bias,
            out: 0x7f00_0010_0000,
        };
        assert_eq!(at(0x7f00_0020_0000, None).alignment(), ALIGNMENT);
        assert_eq!(at(0x7f00_0020_0010, None).alignment(), 16);
        assert_eq!(at(0x7f00_0020_0010, Some(0x7f00_0030_0002)).alignment(), 2);
    }

    #[test]
    fn a_wrong_product_is_seen() {
        let [rows, d_input, d_output] = TEST;
        let one = |count: usize| vec![bf16::ONE; count];
        let (x, weight, bias) = (one(rows * d_input), one(d_output * d_input), one(d_output));
        let right = vec![bf16::from_f32(d_input as f32 + 1.0); rows * d_output];
        check(&x, &weight, &bias, &right).expect("right");
        for wrong in [bf16::NAN, bf16::ZERO, bf16::from_f32(d_input as f32 + 3.0)] {
            let mut got = right.clone();
            got[rows * d_output - 1] = wrong;
            let error = check(&x, &weight, &bias, &got).expect_err("wrong");
            assert!(error.contains("row 79, column 63"), "{error}");
        }
    }
}
