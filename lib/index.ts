export type { Score, ScoreOptions } from './best_of.ts';
export type { SayOptions } from './chat.ts';
export { Chat } from './chat.ts';
export type { ConnectorConfig, ModelConfig, TextConfig, VisionConfig } from './checkpoint/config.ts';
export type { RunInput, StepProfile } from './device.ts';
export { type DeviceInfo, type DeviceName, devices } from './devices.ts';
export { type ErrorDetails, VLMambaError } from './errors.ts';
export type { Choice, FinishReason, GenerateResult, Timings, Usage } from './generation.ts';
export { Generation } from './generation.ts';
export { pull } from './hub/index.ts';
export type { DownloadProgress, Pulled, PullOptions } from './hub/pull.ts';
export type { ImageInput, RawPixels } from './image/preprocess.ts';
export {
  type GenerateOptions,
  type LoadOptions,
  type LoadProgress,
  load,
  Model,
  type PromptOptions,
  type ReadProgress,
} from './model.ts';
export type { Activation } from './ops/activation.ts';
export type { Grid, Scan } from './ops/directions.ts';
export type { EagerOptions, TensorData } from './ops/eager.ts';
export { ops } from './ops/index.ts';
export type { SelectiveScan2dOptions } from './ops/selective_scan_2d.ts';
export type { SamplingOptions } from './sampling.ts';
export type { AppendOptions, Mark, QuestionOptions, Session, SessionGenerateOptions } from './session.ts';
export type { SnapshotDtype, SnapshotOptions } from './snapshot.ts';
export type { ContentPart, Message } from './text/prompt.ts';
