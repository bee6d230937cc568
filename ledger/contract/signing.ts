import type { KeyObject } from 'node:crypto';

/** The public half, as RFC 8037 writes it. `kid` is its thumbprint (RFC 7638), so that no two installations share one. */
export type PublicKey = {
  readonly kty: 'OKP';
  readonly crv: 'Ed25519';
  readonly x: string;
  readonly kid: string;
  readonly use: 'sig';
  readonly alg: 'EdDSA';
};

export type SigningKey = { readonly privateKey: KeyObject; readonly publicKey: PublicKey };

/** What signs receipts, and what they are checked with. */
export type Signing = {
  current(): SigningKey;
  /** Of every signing key, the newest first: also of those whose time has not come, so that whoever checks has them by then. */
  readonly publicKeys: readonly PublicKey[];
};
