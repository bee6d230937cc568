// Why a server cannot be reached, in words for the person who has to mend it. The reason's own words are left out, since they may
// quote a value; its code stays with the error as its cause.
import { AbideError } from '../../suppression/errors.ts';

/** What the codes of Node, of TLS and of the client libraries mean. */
const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'nothing listens there',
  ECONNRESET: 'the other side closed it',
  EPIPE: 'the other side closed it',
  UND_ERR_SOCKET: 'the other side closed it',
  ENOTFOUND: 'there is no such host',
  EAI_AGAIN: "the host's name cannot be looked up now",
  ETIMEDOUT: 'no answer in time',
  EHOSTUNREACH: 'there is no route to the host',
  ENETUNREACH: 'there is no route to the host',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another host',
  CERT_HAS_EXPIRED: 'its certificate has expired',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is from an unknown authority',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate is from an unknown authority',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'its certificate is from an unknown authority',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate is from an unknown authority',
  ERR_SSL_WRONG_VERSION_NUMBER: 'it does not speak TLS there',
  HANDSHAKE_NO_SSL_SUPPORT: 'it does not speak TLS there',
};

/** An error that is only a code: a driver's own error may carry statements and rows. */
export const coded = (code: string): Error => Object.assign(new Error('The code says why.'), { code });

/** `otherwise`: the code, if the error has none of its own. */
export function lineFailed(server: string, error: unknown, otherwise?: string): AbideError {
  const own = error instanceof Error && 'code' in error ? error.code : undefined;
  const code = typeof own === 'string' && /^[A-Z][A-Z0-9_]*$/.test(own) ? own : otherwise;
  const reason = code === undefined ? undefined : REASONS[code];
  const why = `${reason === undefined ? '' : `: ${reason}`}${code === undefined ? '' : ` (${code})`}`;
  return new AbideError('STORE_UNREACHABLE', `The connection to ${server} failed${why}.`, {
    cause: code === undefined ? error : coded(code),
  });
}
