// Reports to the ledger what became of what was carried, and that the worker lives.
import { setTimeout as delay } from 'node:timers/promises';
import type { Log } from '../connectors/contract/connector.ts';
import type { AcknowledgementAnswer, SourceReport } from '../suppression/acknowledgement.ts';
import { createBell } from './bell.ts';
import type { Report } from './carried.ts';
import type { LedgerAccess } from './ledger-access.ts';
import type { createStoreObserver } from './observe-store.ts';

/** Most acknowledgements in one report, and most names of scopes in them: the ledger takes two megabytes. */
const REPORT_MAX = 1_000;
export const REPORT_SCOPES_MAX = 20_000;
const SIGN_OF_LIFE_MS = 1_000;
const AGAIN_MS = 250;
const REPORT_MS_MAX = 10_000;

export function createReporter({
  store,
  id,
  ledger,
  source,
  generation,
  observer,
  log,
}: {
  store: string;
  id: string;
  ledger: Pick<LedgerAccess, 'acknowledge'>;
  source: { report(): SourceReport };
  /** The store's generation, as the ledger last said it; undefined before the ledger was ever read. */
  generation: () => number | undefined;
  observer: Pick<ReturnType<typeof createStoreObserver>, 'untold' | 'told'>;
  log: Log;
}) {
  const incarnation = `${id}-${Date.now().toString(36)}`;
  const reports: Report[] = [];
  const bell = createBell();
  let finished = false;
  let lastError: { readonly code: string; readonly at: string } | undefined;

  return {
    push(report: Report): void {
      reports.push(report);
      bell.wake();
    },
    noteError: (code: string): void => {
      lastError = { code, at: new Date().toISOString() };
    },
    wake: bell.wake,
    waiting: (): number => reports.length,
    /** What was pushed is reported once more, if the ledger answers; nothing may be pushed any more. */
    finish(): void {
      finished = true;
      bell.wake();
    },
    isFinished: (): boolean => finished,

    /**
     * Reports in natural batches: while one report is under way, the next gather. Once a second an empty report goes first, busy or
     * not: it is the sign of life, and it alone takes a store's lease that became free. `answered` is told what the ledger took.
     * Resolves once it is finished.
     */
    async reportAlways(
      answered: (batch: readonly Report[], rejected: AcknowledgementAnswer['rejected']) => void,
    ): Promise<void> {
      let signDueAt = -Infinity;
      let isTaken = true;
      while (!finished || reports.length > 0) {
        const waitMs = generation() === undefined ? SIGN_OF_LIFE_MS : signDueAt - performance.now();
        if (reports.length === 0 && waitMs > 0) await bell.wait(waitMs);
        const isSign = !finished && performance.now() >= signDueAt;
        // Before the ledger was ever read there is nothing to say that it would understand.
        const of = isSign ? generation() : reports[0]?.generation;
        if (of === undefined) continue;
        const batch = isSign ? [] : reports.splice(0, countOfReport(reports, of));
        const observed = isSign ? observer.untold(of) : undefined;
        try {
          const { rejected } = await ledger.acknowledge(
            {
              generation: of,
              worker: { id, incarnation, lastError, source: source.report() },
              observed: observed?.store,
              acknowledgements: batch.map(({ acknowledgement }) => acknowledgement),
            },
            AbortSignal.timeout(REPORT_MS_MAX),
          );
          if (isSign) {
            signDueAt = performance.now() + SIGN_OF_LIFE_MS;
            observer.told(observed);
          }
          isTaken = true;
          answered(batch, rejected);
        } catch (error) {
          reports.unshift(...batch);
          if (finished) {
            log.warn(
              { store, reports: reports.length },
              'stopped without reporting: the ledger will ask again',
            );
            return;
          }
          if (isTaken) log.warn({ store, error }, 'a report was not accepted, will try again');
          isTaken = false;
          await delay(AGAIN_MS);
        }
      }
    },
  };
}

/** How many of the waiting ones go into one report: the first in any case. */
function countOfReport(reports: readonly Report[], generation: number): number {
  let scopes = 0;
  const end = reports.slice(0, REPORT_MAX).findIndex((one, n) => {
    scopes += one.acknowledgement.held.suppressed.length;
    return one.generation !== generation || (n > 0 && scopes > REPORT_SCOPES_MAX);
  });
  return end < 0 ? Math.min(reports.length, REPORT_MAX) : end;
}
