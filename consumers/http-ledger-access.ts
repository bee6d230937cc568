// The ledger for a worker elsewhere: calls over HTTP, with a key bound to its one store.
import { setTimeout as delay } from 'node:timers/promises';
import { Agent, request } from 'undici';
import type { Dispatcher } from 'undici';
import type { AcknowledgementAnswer } from '../suppression/acknowledgement.ts';
import { toDecision, UnreadableRow } from '../stream/decision-row.ts';
import type { Instant } from '../suppression/decision.ts';
import { AbideError, ERRORS } from '../suppression/errors.ts';
import type { Fault } from '../suppression/errors.ts';
import type { ListedKey } from '../suppression/own-suppression.ts';
import type { LedgerAccess, OutstandingDecision } from './ledger-access.ts';

/** How long the API may take to answer, beyond what it was asked to wait. */
const ANSWER_MS_MAX = 10_000;
/**
 * The whole answer may take this many times that long. A limit on the pause between two chunks would not stop an answer that drips
 * in.
 */
const WHOLE_TIMES = 6;
/** A page of 2,000 decisions with the most scopes that the ledger takes, and room to spare. */
const ANSWER_BYTES_MAX = 256 * 1024 * 1024;

/** A page as the API answers it: decision rows that are still to be read, each with these three. */
type WirePage = {
  readonly generation: number;
  readonly target_since?: Instant;
  readonly decisions: readonly {
    readonly seq: number;
    readonly attempts: number;
    readonly asked?: number;
    readonly lane: 'live' | 'backfill';
  }[];
  readonly next: string | null;
  readonly paused?: true;
  readonly unleased?: true;
};

type WireReconciliationPage = {
  readonly run: number;
  readonly generation: number;
  readonly after: string;
  readonly through: string;
  readonly last: boolean;
  readonly decisions: readonly object[];
  readonly own?: { readonly scopes: readonly string[]; readonly others: readonly object[] };
  readonly pause_ms: number;
};

type WireListingPage = {
  readonly generation: number;
  readonly pages: number;
  readonly after: ListedKey | null;
  readonly scopes: readonly string[];
  readonly pause_ms: number;
};

type Problem = Readonly<Record<'code' | 'title' | 'detail', string>> & { readonly errors: readonly Fault[] };

/** Answers that the API means for good; any other may be different in a moment. */
export const REFUSALS = ['unauthenticated', 'missing-scope', 'not-found', 'another-stanza'] as const;

/** Nobody else's page is taken for the API's word. */
async function readProblem({
  headers,
  body,
}: Dispatcher.ResponseData): Promise<Partial<Problem> | undefined> {
  if (headers['content-type'] === 'application/problem+json')
    return (await body.json().catch(() => undefined)) as Partial<Problem> | undefined;
  await body.dump();
  return undefined;
}

/** Throws AbideError if the API refuses or does not answer; the worker goes on trying. */
export function createHttpLedgerAccess({
  url,
  key,
  store,
  stanza,
  workerId,
  answerMsMax = ANSWER_MS_MAX,
}: {
  url: string;
  key: string;
  store: string;
  /** A digest of what this worker's configuration says of the store; undefined: nothing is compared. */
  stanza?: Buffer;
  /** Who asks: only the holder of the store's lease, which its reports take, is given anything. */
  workerId: string;
  answerMsMax?: number;
}): LedgerAccess & AsyncDisposable {
  const agent = new Agent({
    connections: 8,
    bodyTimeout: 10_000,
    connectTimeout: 5_000,
    maxResponseSize: ANSWER_BYTES_MAX,
  });
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' };
  // A gateway may have the API under a path of its own.
  const { origin, pathname: below } = new URL(url);
  const api = origin + below.replace(/\/+$/, '');

  /** The answer, read to its end. Throws if there is none, or it is cut off, or it drips. */
  async function ask(
    method: 'GET' | 'POST',
    path: string,
    signal: AbortSignal,
    { body, waitSeconds }: { body: unknown; waitSeconds: number },
  ) {
    // Not AbortSignal.timeout, as where the limit is seconds or calls are few: it is kept until its time is over, which is a minute
    // here, and a busy worker calls many times a second.
    const ending = new AbortController();
    const late = setTimeout(() => ending.abort(), waitSeconds * 1000 + WHOLE_TIMES * answerMsMax);
    try {
      const answer = await request(api + path, {
        method,
        dispatcher: agent,
        signal: AbortSignal.any([signal, ending.signal]),
        headersTimeout: waitSeconds * 1000 + answerMsMax,
        headers: waitSeconds === 0 ? headers : { ...headers, prefer: `wait=${waitSeconds}` },
        body: body === undefined ? null : JSON.stringify(body),
      });
      const isGood = answer.statusCode >= 200 && answer.statusCode < 300;
      if (isGood) return { ...answer, isGood, read: await answer.body.json() };
      return { ...answer, isGood, problem: await readProblem(answer) };
    } catch (cause) {
      signal.throwIfAborted();
      const [pathname] = path.split('?');
      throw new AbideError('ledger-unavailable', `The API does not answer ${method} ${pathname}.`, { cause });
    } finally {
      clearTimeout(late);
    }
  }

  async function call<T>(
    method: 'GET' | 'POST',
    path: string,
    signal: AbortSignal,
    { body, waitMs = 0 }: { body?: unknown; waitMs?: number } = {},
  ): Promise<T> {
    const waitSeconds = Math.min(30, Math.ceil(waitMs / 1000));
    const { statusCode, headers: told, ...answer } = await ask(method, path, signal, { body, waitSeconds });
    if (answer.isGood) return answer.read as T;
    const { problem } = answer;
    const seconds = Number(told['retry-after']);
    if ((statusCode === 429 || statusCode === 503) && seconds > 0) {
      await delay(Math.min(seconds, 30) * 1000, undefined, { signal });
    }
    const code = REFUSALS.find((one) => one === problem?.code) ?? 'ledger-unavailable';
    const { title, detail, errors = [] } = problem ?? {};
    // The code already says what to do about it. If the API finds faults in what we ask, it does not know what they name.
    const said =
      problem?.code === 'invalid-value'
        ? `${errors.map((fault) => `${fault.pointer} ${fault.detail}`).join(', ')}. The API is of another version: upgrade it before its workers.`
        : detail;
    const why = [title, ...(said === ERRORS[code].help ? [] : [said])].filter(Boolean).join(': ');
    const [pathname] = path.split('?');
    throw new AbideError(code, `The API answered ${statusCode} to ${method} ${pathname}. ${why}`);
  }
  const stem = `/v1/stores/${encodeURIComponent(store)}`;

  return {
    outstanding: async ({ after, limit, waitMs = 0, signal }) => {
      const query = new URLSearchParams({ limit: String(limit), worker: workerId, target_since: 'true' });
      if (after !== undefined) query.set('after', after);
      if (stanza !== undefined) query.set('stanza', stanza.toString('hex'));
      const page = await call<WirePage>('GET', `${stem}/outstanding?${query.toString()}`, signal, { waitMs });
      const decisions: OutstandingDecision[] = [];
      const unreadable: number[] = [];
      for (const row of page.decisions) {
        try {
          const { attempts, asked = 0, lane } = row;
          decisions.push({ ...toDecision(row), attempts, asked, lane });
        } catch (error) {
          if (!(error instanceof UnreadableRow)) throw error;
          unreadable.push(row.seq);
        }
      }
      const { generation, target_since: targetSince, next, paused, unleased } = page;
      return { generation, targetSince, decisions, unreadable, next: next ?? undefined, paused, unleased };
    },
    acknowledge: async ({ generation, worker, observed, acknowledgements }, signal) => {
      const { source, lastError } = worker;
      const answer = await call<AcknowledgementAnswer>('POST', '/v1/acknowledgements', signal, {
        body: {
          store,
          generation,
          worker: {
            id: worker.id,
            incarnation: worker.incarnation,
            ...(lastError === undefined ? {} : { last_error: lastError }),
            source: {
              kind: source.kind,
              status: source.status,
              parked: source.parked,
              ...(source.position === undefined ? {} : { position: source.position }),
              ...(source.positionAgeSeconds === undefined
                ? {}
                : { position_age_seconds: source.positionAgeSeconds }),
            },
          },
          ...(observed === undefined ? {} : { observed }),
          acknowledgements: acknowledgements.map((one) => ({
            seq: one.seq,
            version: one.version,
            subject_id: one.subjectId,
            outcome: one.outcome,
            // A store without versions says so with a null: there it is a value, not a missing one.
            held: { version: one.held.version ?? null, suppressed: one.held.suppressed },
            carried_by: one.carriedBy,
            attempts: one.attempts,
            ...(one.asked === undefined ? {} : { asked: one.asked }),
            ...(one.code === undefined ? {} : { code: one.code }),
            evidence: {
              ...(one.evidence.consumedAt === undefined ? {} : { consumed_at: one.evidence.consumedAt }),
              ...(one.evidence.appliedAt === undefined ? {} : { applied_at: one.evidence.appliedAt }),
              ...(one.evidence.verifiedAt === undefined ? {} : { verified_at: one.evidence.verifiedAt }),
            },
          })),
        },
      });
      return answer;
    },
    newest: async (subjectId, signal) => {
      const found = await call<{
        subject_id: string;
        seq: number;
        version: number;
        suppressed: OutstandingDecision['suppressed'];
        granted: OutstandingDecision['granted'];
        /** An older API does not send it. */
        acknowledged_version?: number;
        first_acknowledged_version?: number;
      }>('GET', `${stem}/subjects/${encodeURIComponent(subjectId)}?acknowledged=true`, signal);
      const {
        subject_id: id,
        seq,
        version,
        suppressed,
        granted,
        acknowledged_version: acknowledgedVersion = 0,
        first_acknowledged_version: firstAcknowledgedVersion = 0,
      } = found;
      return {
        ...{ subjectId: id, seq, version, suppressed, granted },
        ...{ acknowledgedVersion, firstAcknowledgedVersion },
      };
    },
    transportKey: async (id, signal) => {
      const answer = await call<{ key: string }>('GET', `/v1/transport-keys/${id}`, signal);
      return Buffer.from(answer.key, 'base64url');
    },
    canary: async (signal) => {
      const answer = await call<{ canary: object | null }>('GET', `${stem}/canary`, signal);
      return answer.canary === null ? undefined : toDecision(answer.canary);
    },
    reconciliationPage: async (signal) => {
      const query = new URLSearchParams({ worker: workerId });
      const { page } = await call<{ page: WireReconciliationPage | null }>(
        'GET',
        `${stem}/reconciliation/page?${query.toString()}`,
        signal,
      );
      if (page === null) return undefined;
      const { run, generation, after, through, last, decisions, own, pause_ms: pauseMs } = page;
      return {
        ...{ run, generation, after, through, isLast: last, pauseMs },
        // If this worker cannot read a row of the page, it claims nothing of the page: the pass stands still until a worker can.
        decisions: decisions.map(toDecision),
        own: own && { scopes: own.scopes, others: own.others.map(toDecision) },
      };
    },
    compared: async ({ run, generation, after, through, isLast }, comparison, signal) => {
      await call('POST', `${stem}/reconciliation/page`, signal, {
        body: {
          ...{ run, generation, after, through, last: isLast },
          compared: comparison.compared,
          own: comparison.own,
          ...(comparison.ownSuppressions === undefined || comparison.ownSuppressions.length === 0
            ? {}
            : { own_suppressions: comparison.ownSuppressions }),
          unread: comparison.unread,
          differences: comparison.differences.map(({ seq, kind, heldVersion }) => ({
            seq,
            kind,
            held_version: heldVersion ?? null,
          })),
        },
      });
    },
    listingPage: async (signal) => {
      const query = new URLSearchParams({ worker: workerId });
      const { page } = await call<{ page: WireListingPage | null }>(
        'GET',
        `${stem}/listing?${query.toString()}`,
        signal,
      );
      if (page === null) return undefined;
      const { generation, pages, after, scopes, pause_ms: pauseMs } = page;
      return { generation, pages, after: after ?? undefined, scopes, pauseMs };
    },
    listed: async ({ generation, pages }, { through, isLast, listed, suppressed }, signal) => {
      await call('POST', `${stem}/listing`, signal, {
        body: { generation, pages, through: through ?? null, last: isLast, listed, suppressed },
      });
    },
    [Symbol.asyncDispose]: () => agent.destroy(),
  };
}
