// The lag as server-sent events. However many listen, only one asks the ledger.
import { PassThrough } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';
import type { Ledger } from '../../ledger/contract/ledger.ts';
import type { LagReport } from '../../ledger/contract/propagation-lag.ts';
import { AbideError } from '../../suppression/errors.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { beginWait } from '../guard/prefer.ts';
import { parse } from '../guard/read-body.ts';
import type { Operation, Routes } from '../operation.ts';
import { asAbideError, toProblem } from '../problem.ts';
import type { Deps } from '../deps.ts';

const Query = z.strictObject({});

export const LISTENERS_MAX = 100;
const LOOK_MS = 500;
/** It leaves room for the next look, so that two seconds never pass in silence. */
const SAY_AGAIN_MS = 750;
const SILENT_MS_MAX = 2_000;
/** A client that takes nothing for this long is gone, whatever its connection says. */
const STUCK_MS_MAX = 30_000;
const RETRY_MS = 2_000;

type Listener = {
  readonly stream: PassThrough;
  readonly requestId: string;
  readonly isStillValid: () => Promise<boolean>;
};

type Seen = {
  /** A change of this makes another event due at once. */
  readonly state: string;
  readonly of: LagReport | AbideError;
};

export type LagFeed = {
  /** Serves a listener until its stream is closed, from whichever side. */
  add(listener: Listener): void;
};

const stateOf = ({ status, stores, sources }: LagReport): string =>
  [
    status,
    ...stores.map((one) => `${one.store} ${one.status}`),
    ...sources.map((one) => `${one.kind} ${one.status}`),
  ].join();

const toEvent = ({ of }: Seen, requestId: string): string =>
  of instanceof AbideError
    ? `event: unknown\ndata: ${JSON.stringify(toProblem(of, requestId))}\n\n`
    : `event: lag\ndata: ${JSON.stringify(of)}\n\n`;

const unknown = (error: AbideError): Seen => ({ state: error.code, of: error });
const NO_ANSWER = unknown(new AbideError('ledger-unavailable', 'The ledger does not answer.'));

/** Asks the ledger while anybody listens. `stuckMsMax` is for tests. */
export function createLagFeed({
  lag,
  log,
  stuckMsMax = STUCK_MS_MAX,
}: Pick<Ledger, 'lag'> & Pick<Deps, 'log'> & { stuckMsMax?: number }): LagFeed {
  const listeners = new Map<Listener, { stuckSince: number | undefined; isAsking: boolean }>();
  let isRunning = false;
  /** Undefined: some listener has heard nothing yet. */
  let said: string | undefined;

  const look = async (): Promise<Seen> => {
    try {
      const of = await lag();
      return { state: stateOf(of), of };
    } catch (thrown) {
      return unknown(asAbideError(thrown));
    }
  };

  async function run(): Promise<void> {
    let looking: Promise<Seen> | undefined;
    let saidAt = performance.now();
    while (listeners.size > 0) {
      looking ??= look();
      const left = Math.max(0, saidAt + SILENT_MS_MAX - performance.now());
      const seen = await Promise.race([looking, delay(left, NO_ANSWER, { ref: false })]);
      if (seen !== NO_ANSWER) looking = undefined;
      if (seen.state !== said || performance.now() - saidAt >= SAY_AGAIN_MS) {
        if (seen.of instanceof AbideError && seen.state !== said)
          log.warn(
            { error: seen.of, listeners: listeners.size },
            'the lag cannot be sent to those who listen',
          );
        said = seen.state;
        saidAt = performance.now();
        tell((listener) => toEvent(seen, listener.requestId));
      } else tell(() => ':\n\n');
      await delay(LOOK_MS);
    }
    isRunning = false;
  }

  function tell(textFor: (listener: Listener) => string): void {
    for (const [listener, own] of listeners) {
      const { stream } = listener;
      if (!stream.writableNeedDrain) {
        own.stuckSince = undefined;
        stream.write(textFor(listener));
      } else {
        // Each event says everything: a slow reader misses some and is told nothing old.
        own.stuckSince ??= performance.now();
        if (performance.now() - own.stuckSince > stuckMsMax) stream.destroy();
      }
      if (own.isAsking) continue;
      own.isAsking = true;
      void listener
        .isStillValid()
        // A ledger that cannot be asked says nothing against the key.
        .catch(() => true)
        .then((isValid) => {
          own.isAsking = false;
          if (!isValid) stream.end();
        });
    }
  }

  return {
    add: (listener) => {
      if (listeners.size >= LISTENERS_MAX)
        throw new AbideError('too-many-requests', `At most ${LISTENERS_MAX} clients may listen at once.`);
      listeners.set(listener, { stuckSince: undefined, isAsking: false });
      listener.stream.once('close', () => listeners.delete(listener));
      listener.stream.write(`retry: ${RETRY_MS}\n\n`);
      said = undefined;
      if (isRunning) return;
      isRunning = true;
      void run();
    },
  };
}

const events: Operation = {
  method: 'get',
  path: '/v1/propagation-lag/events',
  id: 'followPropagationLag',
  tag: 'Operations',
  summary: 'The lag as server-sent events',
  description: `An event at every change, and at least one every ${SILENT_MS_MAX / 1000} s. \`lag\` carries what GET /v1/propagation-lag answers; \`unknown\` carries a problem: the ledger does not answer. At most ${LISTENERS_MAX} clients may listen to one server.`,
  scopes: ['lag:read'],
  query: Query,
  answers: {
    200: {
      description: 'Lasts for as long as you listen and the key is valid.',
      schema: z.string(),
      type: 'text/event-stream',
    },
  },
  examples: { followed: { summary: 'A stream without end', status: 200 } },
};

export function addPropagationLagEvents(routes: Routes, { ledger, log, closing }: Deps): void {
  const feed = createLagFeed({ lag: () => ledger.lag(), log });

  routes.add(events, (ctx) => {
    parse(Query, { ...ctx.query });
    const { caller, isStillValid } = authorizedOf(ctx);
    const gone = beginWait(ctx, closing);
    const stream = new PassThrough();
    feed.add({ stream, requestId: caller.requestId, isStillValid });
    // `end()` still delivers what was written; a client that has stopped reading is cut off at once.
    gone.addEventListener('abort', () => {
      if (ctx.res.destroyed || ctx.method === 'HEAD' || stream.writableNeedDrain) stream.destroy();
      else stream.end();
    });
    if (gone.aborted) stream.end();
    ctx.set('Content-Type', 'text/event-stream; charset=utf-8');
    // A proxy that gathers output (nginx) would tell of a late store when it no longer is.
    ctx.set('X-Accel-Buffering', 'no');
    ctx.body = stream;
  });
}
