// How decisions travel from the ledger to a worker. A source makes it fast; the ledger makes it sure: nothing here needs to be
// complete. A source promises to deliver each decision committed while it is live at least once, and to say when it is not live.
import type { Decision } from '../suppression/decision.ts';
import type { SourceReport } from '../suppression/acknowledgement.ts';

export type ChangeListener = {
  /**
   * Decisions of one commit or one fetch, oldest first. The promise resolves once the listener has answered for them. A source that
   * commits positions does so only after that; one that cannot wait does not.
   */
  decisions(batch: readonly Decision[]): Promise<void>;
  /** From here on every commit is delivered. What was committed before must be read from the ledger. */
  live(): void;
  /** Deliveries may be missing from here until live() is called again: poll the ledger. */
  down(reason: string): void;
};

/** Disposal stops deliveries and frees what the source holds (slots, consumers, requests). */
export type ChangeSource = AsyncDisposable & {
  start(listener: ChangeListener): void;
  /** Others may write what it brings, like whoever may write to a topic: nothing is lifted on its word. */
  readonly hasOtherWriters?: true;
  /** For the lag; never throws. */
  report(): SourceReport;
};
