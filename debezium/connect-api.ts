// Kafka Connect, asked over its REST interface about the one connector that is ours.
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { request } from 'undici';
import { basicAuthorization, takeCredentials } from '../stream/url-credentials.ts';
import { AbideError } from '../suppression/errors.ts';

export const CONNECTOR = 'abide';
const CALL_MS_MAX = 5_000;
const POLL_MS = 100;

/** `missing`: nobody registered the connector; `unknown`: Connect does not answer. */
export type TaskState = 'running' | 'starting' | 'paused' | 'failed' | 'missing' | 'unknown';

export type ConnectApi = {
  /** Never throws: Connect that does not answer is `unknown`. */
  state(): Promise<TaskState>;
  /** Whether exactly connector.json is registered. Throws if Connect does not answer. */
  isRegistered(): Promise<boolean>;
  /**
   * Registers connector.json unless exactly that is registered already; with `again` in any case. Throws if Connect refuses or does
   * not answer.
   */
  register(options?: { readonly again: boolean }): Promise<void>;
  /** Restarts what FAILED, connector and task, and nothing else. */
  restartFailed(): Promise<void>;
  /** Restarts connector and task, whatever their state. */
  restart(): Promise<void>;
};

/** connector.json as it is registered: addresses and passwords in it are names of Connect's environment. */
export const readConnector = (): Readonly<Record<string, string>> =>
  JSON.parse(readFileSync(new URL('connector.json', import.meta.url), 'utf8')) as Record<string, string>;

/** `url` may carry a user and a password, for Connect behind basic authentication. */
export function createConnectApi(url: string): ConnectApi {
  const { address: base, credentials } = takeCredentials(url);

  async function call(
    method: 'GET' | 'PUT' | 'POST',
    path: string,
    body?: unknown,
  ): Promise<{ status: number; body: unknown }> {
    const answer = await request(new URL(`${base.pathname.replace(/\/$/, '')}/${path}`, base), {
      method,
      headers: {
        'content-type': 'application/json',
        ...basicAuthorization(credentials),
      },
      body: body === undefined ? null : JSON.stringify(body),
      headersTimeout: CALL_MS_MAX,
      bodyTimeout: CALL_MS_MAX,
      signal: AbortSignal.timeout(CALL_MS_MAX),
    });
    const text = await answer.body.text();
    return { status: answer.statusCode, body: text === '' ? undefined : JSON.parse(text) };
  }

  const wanted = { ...readConnector(), name: CONNECTOR };

  async function isRegistered(): Promise<boolean> {
    const { status, body } = await call('GET', `connectors/${CONNECTOR}/config`);
    return status === 200 && sameSettings(body as Record<string, string>, wanted);
  }

  return {
    state: async () => {
      try {
        const { status, body } = await call('GET', `connectors/${CONNECTOR}/status`);
        if (status === 404) return 'missing';
        return status === 200 ? toTaskState(body as Status) : 'unknown';
      } catch {
        return 'unknown';
      }
    },
    isRegistered,
    register: async ({ again } = { again: false }) => {
      // Registering the same configuration again restarts the task.
      if (!again && (await isRegistered())) return;
      const answer = await call('PUT', `connectors/${CONNECTOR}/config`, wanted);
      if (answer.status >= 300) {
        const { message } = (answer.body ?? {}) as { message?: string };
        throw new AbideError(
          'CONNECTOR_FAILED',
          `Connect refuses the connector (${answer.status}): ${message ?? 'no reason given'}`,
        );
      }
    },
    restartFailed: async () => {
      await call('POST', `connectors/${CONNECTOR}/restart?includeTasks=true&onlyFailed=true`);
    },
    restart: async () => {
      await call('POST', `connectors/${CONNECTOR}/restart?includeTasks=true`);
    },
  };
}

type Status = { connector: { state: string }; tasks: readonly { state: string }[] };

function toTaskState({ connector, tasks }: Status): TaskState {
  const states = [connector.state, ...tasks.map(({ state }) => state)];
  if (states.includes('FAILED')) return 'failed';
  if (states.some((state) => state === 'PAUSED' || state === 'STOPPED')) return 'paused';
  return tasks.length > 0 && states.every((state) => state === 'RUNNING') ? 'running' : 'starting';
}

function sameSettings(
  one: Readonly<Record<string, string>>,
  other: Readonly<Record<string, string>>,
): boolean {
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => one[name] === other[name]);
}

/**
 * Registers the connector and returns when its task runs; a task that fails meanwhile is restarted. Safe to repeat. Throws
 * CONNECTOR_FAILED after `withinMs`, saying how far it came.
 */
export async function registerAndWait(
  connect: ConnectApi,
  { withinMs, signal }: { withinMs: number; signal?: AbortSignal | undefined },
): Promise<void> {
  const until = performance.now() + withinMs;
  let refused: unknown;
  for (let registered = false; ;) {
    signal?.throwIfAborted();
    // Connect answers 409 or 500 while it starts or moves work between its workers.
    if (!registered) {
      registered = await connect.register().then(
        () => true,
        (error: unknown) => {
          refused = error;
          return false;
        },
      );
    }
    const state = registered ? await connect.state() : 'unknown';
    if (state === 'running') return;
    if (state === 'failed') await connect.restartFailed().catch(() => undefined);
    if (state === 'missing') registered = false;
    if (performance.now() > until) {
      throw new AbideError(
        'CONNECTOR_FAILED',
        registered
          ? `The connector's task is ${state}: see Connect's log.`
          : 'Connect does not accept the connector.',
        { cause: refused },
      );
    }
    await delay(POLL_MS, undefined, signal === undefined ? {} : { signal });
  }
}
