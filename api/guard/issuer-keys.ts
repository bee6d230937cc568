// The keys of an issuer of tokens, fetched when a token needs them. Anybody can make up a token that names the issuer and a key that
// nobody knows, so how often that makes Abide ask is bounded, and so is how many wait for the answer.
import { createRemoteJWKSet, customFetch, errors } from 'jose';
import type { RemoteJWKSet } from 'jose';
import type { TokenIssuer } from '../../config/configuration.ts';
import { AbideError, sayError } from '../../suppression/errors.ts';
import { readBounded } from '../../suppression/read-bounded.ts';

const ANSWER_MS_MAX = 5_000;
/** Some hundred keys. */
const ANSWER_BYTES_MAX = 1024 * 1024;
/**
 * From one answer, or none, to the next question. So long may the tokens of a new key have to wait, and so often is an issuer asked
 * that is away.
 */
const PAUSE_MS = 5_000;
/** Who waits holds a place at the door of the API (rooms.ts), which has 2,000, and 500 for workers: a slow issuer must not fill it. */
const WAITING_MAX = 100;
const SAID_MS = 60_000;

export type IssuerKeys = {
  /** Those that were fetched last. */
  readonly find: RemoteJWKSet;
  /**
   * Waits until the issuer was asked for its keys at `time`, in milliseconds of `now`, or later; false if it was so already. Throws
   * issuer-unavailable if it may not be asked again yet, if it does not give out its keys, or if too many wait for them.
   */
  since(time: number): Promise<boolean>;
  /** What to answer if a key is none that can be used. */
  unusable(error: unknown): AbideError;
};

/** What is wrong with the issuer is logged at most once a minute: tokens come much more often. */
export function createIssuerKeys(
  { name, jwks }: TokenIssuer,
  { log, now }: { log: { warn: (fields: object, message: string) => void }; now: () => number },
): IssuerKeys {
  const find = openKeys(jwks);
  let asking: Promise<void> | undefined;
  /** When the question was put to which the keys are the answer. */
  let askedAt = -Infinity;
  let endedAt = -Infinity;
  let failure: unknown;
  let waiting = 0;
  let saidAt = -Infinity;

  function say(error: unknown): void {
    if (now() - saidAt < SAID_MS) return;
    saidAt = now();
    log.warn({ issuer: name, reason: reasonOf(error) }, "an issuer's keys cannot be had: its tokens get 503");
  }

  async function ask(): Promise<void> {
    const began = now();
    try {
      await find.reload();
      askedAt = began;
      failure = undefined;
    } catch (error) {
      failure = error;
      say(error);
    }
    endedAt = now();
    asking = undefined;
  }

  return {
    find,
    since: async (time) => {
      if (askedAt >= time) return false;
      while (askedAt < time) {
        const pauseMs = endedAt + PAUSE_MS - now();
        if (asking === undefined && pauseMs > 0)
          throw new AbideError('issuer-unavailable', undefined, {
            cause: failure,
            retryAfterSeconds: Math.ceil(pauseMs / 1000),
          });
        if (waiting >= WAITING_MAX) throw new AbideError('issuer-unavailable');
        waiting += 1;
        await (asking ??= ask());
        waiting -= 1;
      }
      return true;
    },
    unusable: (error) => {
      say(error);
      return new AbideError('issuer-unavailable', undefined, {
        cause: error,
        retryAfterSeconds: PAUSE_MS / 1000,
      });
    },
  };
}

/** Asks each issuer for its keys, as the first token does. A problem is said in words. */
export const checkIssuers = (
  issuers: readonly TokenIssuer[],
): Promise<{ issuer: string; problem: string | undefined }[]> =>
  Promise.all(issuers.map(async (issuer) => ({ issuer: issuer.name, problem: await problemOf(issuer) })));

async function problemOf({ jwks, algorithms }: TokenIssuer): Promise<string | undefined> {
  const find = openKeys(jwks);
  try {
    await find.reload();
  } catch (error) {
    return `its keys cannot be had: ${reasonOf(error)}`;
  }
  for (const alg of algorithms) {
    try {
      await find({ alg });
      return undefined;
    } catch (error) {
      if (error instanceof errors.JWKSMultipleMatchingKeys) return undefined;
    }
  }
  return `has no key for ${algorithms.join(', ')} that can be used`;
}

const reasonOf = (error: unknown): string =>
  error instanceof errors.JWKSTimeout ? `no answer within ${ANSWER_MS_MAX / 1000} s` : sayError(error);

/** Jose fetches them, and we say when: left to itself it asks for every token while the issuer fails. */
const openKeys = (jwks: string): RemoteJWKSet =>
  createRemoteJWKSet(new URL(jwks), {
    timeoutDuration: ANSWER_MS_MAX,
    cooldownDuration: Infinity,
    cacheMaxAge: Infinity,
    [customFetch]: async (url, options) => {
      const response = await fetch(url, options);
      // Jose does not say which.
      if (response.status !== 200) throw new Error(`it answers ${response.status}`);
      // Not by undici's maxResponseSize, which counts what comes over the line: eight thousand bytes of gzip are eight million of text.
      // A client that leaves the answer compressed has its own words for what is wrong, and does not go through the proxy that fetch
      // uses.
      const text = await readBounded((response.body ?? []) as AsyncIterable<Uint8Array>, ANSWER_BYTES_MAX);
      if (text === undefined) throw new Error(`it answers more than ${ANSWER_BYTES_MAX} bytes`);
      // Jose would take it for the keys, in place of those that it has.
      if (/"keys"\s*:\s*\[\s*\]/.test(text)) throw new Error('it gives out no key');
      return new Response(text, { status: 200, headers: response.headers });
    },
  });
