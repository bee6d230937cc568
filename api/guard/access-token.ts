// OAuth 2 access tokens besides API keys: JWTs of RFC 9068, from issuers that the configuration names. What is accepted (issuer,
// audience, algorithms) is never read from the token.
import { decodeJwt, errors, jwtVerify } from 'jose';
import type { JWTPayload, JWTVerifyGetKey, JWTVerifyOptions } from 'jose';
import type { TokenIssuer } from '../../config/configuration.ts';
import { KEY_SCOPES } from '../../ledger/contract/api-keys.ts';
import type { ApiKey } from '../../ledger/contract/api-keys.ts';
import { AbideError } from '../../suppression/errors.ts';
import { createIssuerKeys } from './issuer-keys.ts';
import type { IssuerKeys } from './issuer-keys.ts';

const CLOCK_SKEW_SECONDS = 30;
/** A key that the issuer gave up is good for at most this long. */
const KEYS_AGE_MS = 600_000;
/** If several of an issuer's keys may be a token's, so many are tried. */
const CANDIDATES_MAX = 10;
/** A token that was good a moment ago is not verified again, but one that has expired is refused. */
const KEPT_MS = 30_000;
const KEPT_MAX = 5_000;

/** Whether a credential is a token at all, and not one of our keys. */
const FORM = /^[\w-]+\.[\w-]+\.[\w-]+$/;

export type TokenAuthenticator = (token: string) => Promise<ApiKey | undefined>;

/**
 * Undefined for anything that is not a valid token of one of the issuers, for whatever reason. Throws issuer-unavailable if that
 * cannot be told: the issuer does not give out its keys, or was asked for them just before the token named one that is not there.
 * `now` is in milliseconds and never goes back.
 */
export function createTokenAuthenticator(
  issuers: readonly TokenIssuer[],
  {
    log,
    now = () => performance.now(),
  }: { log: { warn: (fields: object, message: string) => void }; now?: (() => number) | undefined },
): TokenAuthenticator {
  const known = issuers.map((issuer) => ({ issuer, keys: createIssuerKeys(issuer, { log, now }) }));
  const kept = new Map<string, { readonly key: ApiKey; readonly until: number }>();

  async function claimsOf(
    token: string,
    issuer: TokenIssuer,
    keys: IssuerKeys,
  ): Promise<JWTPayload | undefined> {
    const arrived = now();
    await keys.since(arrived - KEYS_AGE_MS);
    for (;;) {
      try {
        return await verify(token, issuer, keys.find);
      } catch (error) {
        if (!isOfTheIssuer(error) && !mayBeOfNewKey(error)) return undefined;
        if (await keys.since(arrived)) continue;
        if (isOfTheIssuer(error)) throw keys.unusable(error);
        return undefined;
      }
    }
  }

  return async (token) => {
    if (!FORM.test(token)) return undefined;
    const before = kept.get(token);
    if (before !== undefined && Date.now() < before.until) return before.key;
    kept.delete(token);
    let away: AbideError | undefined;
    for (const { issuer, keys } of known.filter(isNamedBy(token))) {
      let claims: JWTPayload | undefined;
      try {
        claims = await claimsOf(token, issuer, keys);
      } catch (error) {
        if (!(error instanceof AbideError)) throw error;
        away = error;
        continue;
      }
      if (claims === undefined) continue;
      const key = toKey(issuer, claims);
      if (key === undefined) return undefined;
      if (kept.size >= KEPT_MAX) kept.clear();
      kept.set(token, { key, until: Math.min(Date.now() + KEPT_MS, claims.exp! * 1000) });
      return key;
    }
    if (away !== undefined) throw away;
    return undefined;
  };
}

/**
 * Whose token it says it is, which only its keys can prove: nobody else is asked for keys because of it, and no issuer that is slow
 * delays another one's tokens. Two entries may have one issuer, for two audiences.
 */
function isNamedBy(token: string): (one: { readonly issuer: TokenIssuer }) => boolean {
  let claims: JWTPayload;
  try {
    claims = decodeJwt(token);
  } catch {
    return () => false;
  }
  const audiences = [claims.aud].flat();
  return ({ issuer }) => claims.iss === issuer.issuer && audiences.includes(issuer.audience);
}

/** Throws one of jose's errors if the token is not valid. */
async function verify(token: string, issuer: TokenIssuer, keys: JWTVerifyGetKey): Promise<JWTPayload> {
  const options: JWTVerifyOptions = {
    issuer: issuer.issuer,
    audience: issuer.audience,
    algorithms: [...issuer.algorithms],
    typ: 'at+jwt',
    clockTolerance: CLOCK_SKEW_SECONDS,
    requiredClaims: ['exp', 'iat', 'client_id'],
  };
  try {
    return (await jwtVerify(token, keys, options)).payload;
  } catch (error) {
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error;
    // An issuer that gives its keys no ids, or two the same, has several such keys while it changes from one to the next.
    let tried = 0;
    for await (const key of error) {
      try {
        return (await jwtVerify(token, key, options)).payload;
      } catch (failure) {
        const isSigned =
          failure instanceof errors.JWTExpired || failure instanceof errors.JWTClaimValidationFailed;
        tried += 1;
        if (isSigned || tried === CANDIDATES_MAX) throw failure;
      }
    }
    throw new errors.JWSSignatureVerificationFailed();
  }
}

/** Nothing is wrong with the token: the key that it names is none that can be used. */
const isOfTheIssuer = (error: unknown): boolean =>
  !(error instanceof errors.JOSEError) || error instanceof errors.JWKSInvalid;

/** The issuer may have a key since that made this token. If keys have no ids, or keep theirs, that shows in the signature alone. */
const mayBeOfNewKey = (error: unknown): boolean =>
  error instanceof errors.JWKSNoMatchingKey || error instanceof errors.JWSSignatureVerificationFailed;

function toKey(issuer: TokenIssuer, payload: JWTPayload): ApiKey | undefined {
  const { client_id: client, scope, store } = payload;
  // RFC 7519 leaves it to us what an `iat` in the future is worth: such a clock may be wrong about `exp` as well.
  if (payload.iat! > Date.now() / 1000 + CLOCK_SKEW_SECONDS) return undefined;
  const createdAt = new Date(payload.iat! * 1000);
  const expiresAt = new Date(payload.exp! * 1000);
  // JavaScript's dates end in the year 275760, and a claim may be any number.
  if ([createdAt, expiresAt].some((at) => Number.isNaN(at.getTime()))) return undefined;
  if (typeof client !== 'string' || !/^[\x21-\x7e]{1,128}$/.test(client)) return undefined;
  const asked = typeof scope === 'string' ? scope.split(' ') : [];
  const scopes = asked.flatMap((one) => (issuer.scopes === undefined ? [one] : (issuer.scopes[one] ?? [])));
  return {
    id: `token:${issuer.name}`,
    client: `${issuer.name}:${client}`,
    scopes: scopes.filter((one) => (KEY_SCOPES as readonly string[]).includes(one)),
    // No store's name has a NUL, and the ledger cannot be asked for one.
    store: typeof store === 'string' && !store.includes('\0') ? store : undefined,
    ratePerSecond: undefined,
    optOutsPerDay: undefined,
    grantsPerDay: undefined,
    checksPerDay: undefined,
    lineage: `token:${issuer.name}`,
    createdAt: createdAt.toISOString(),
    expiresAt: expiresAt.toISOString(),
    revokedAt: undefined,
    lastUsedAt: undefined,
  };
}
