import { load, type Model } from 'vl-mamba';

// The development server evaluates modules anew when files change; the model stays.
const kept = globalThis as { vlMamba?: Promise<Model> };

/** One model for all requests: those that come at the same time share its steps. */
export function getModel(): Promise<Model> {
  kept.vlMamba ??= load(process.env.MODEL ?? 'demo', { maxQueue: 64 });
  kept.vlMamba.catch(() => {
    kept.vlMamba = undefined;
  });
  return kept.vlMamba;
}
