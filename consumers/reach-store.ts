// The store as its worker reaches it: opened once, whoever needs it first, and no call without a time limit.
import { untilAborted } from '../connectors/contract/until-aborted.ts';
import type { Connector, Log, Store } from '../connectors/contract/connector.ts';

export type WorkerStore = {
  readonly name: string;
  readonly connector: Connector;
  readonly options: unknown;
  readonly scopes: ReadonlyMap<string, unknown>;
  readonly accepts: readonly string[];
  /** What the store is keyed by, from the address in its normal form. */
  readonly makeKey: (value: string) => string;
  /** The key is the address itself, so that what the store lists says whom it means. */
  readonly isPlain: boolean;
};

export type StoreReach = ReturnType<typeof reachStore>;

export function reachStore({
  store: { name, connector, options, scopes },
  callMsMax,
  log,
}: {
  store: WorkerStore;
  callMsMax: number;
  log: Log;
}) {
  let opening: Promise<Store> | undefined;

  /** A connector that does not listen to its signal must not hold the worker either. */
  function call<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const deadline = AbortSignal.timeout(callMsMax);
    return untilAborted(work(deadline), deadline);
  }

  return {
    call,
    /** After an opening that failed or took too long the next caller tries again. */
    open(): Promise<Store> {
      if (opening === undefined) {
        const opened = connector.open(options, { log, name, scopes });
        const inTime = call(() => opened);
        opening = inTime;
        inTime.catch(() => {
          opening = undefined;
          // Given up, and there after all: nobody will use it.
          opened.then((late) => late[Symbol.asyncDispose]()).catch(() => undefined);
        });
      }
      return opening;
    },
    async close(): Promise<void> {
      try {
        const open = await opening;
        // Abide does not stop before its workers have, nor its database.
        if (open !== undefined) await call(async () => open[Symbol.asyncDispose]());
      } catch (error) {
        log.debug({ store: name, error }, 'the store was not closed cleanly');
      }
    },
  };
}
