import { domainToASCII } from 'node:url';
import { inspect } from 'node:util';
import { parsePhoneNumberFromString } from 'libphonenumber-js/max';
import type { CountryCode } from 'libphonenumber-js/max';
import { CHANNELS } from './scope.ts';
import type { Channel } from './scope.ts';
import type { SubjectKind } from './subject-kind.ts';

/** Kept with every subject, so that a later rule or library can tell which subjects were formed by an older one. */
export const NORMAL_FORM = 1;

/** Which kind of identifier reaches which channel; a person id reaches any. */
export const KIND_OF_CHANNEL: Readonly<Record<Channel, SubjectKind>> = {
  email: 'email',
  sms: 'phone',
  push: 'push_token',
};

/** An address in its normal form. It prints as `[redacted]` everywhere; only `reveal()` gives it away. */
export class Address {
  readonly #value: string;
  constructor(value: string) {
    this.#value = value;
  }
  reveal(): string {
    return this.#value;
  }
  toString(): string {
    return '[redacted]';
  }
  toJSON(): string {
    return '[redacted]';
  }
  [inspect.custom](): string {
    return '[redacted]';
  }
}

export type Subject = { readonly kind: SubjectKind; readonly value: Address };

/**
 * The channels among these scopes that none of these identifiers reaches: an address opted out of SMS says nothing of the
 * person's phone.
 */
export const unreachedChannels = (kinds: readonly SubjectKind[], scopes: readonly string[]): Channel[] =>
  CHANNELS.filter(
    (channel) =>
      scopes.includes(channel) && !kinds.includes('person_id') && !kinds.includes(KIND_OF_CHANNEL[channel]),
  );

/** The outcome of bringing an identifier into its normal form; the detail never repeats the value. */
export type Normalised =
  { readonly ok: true; readonly value: Address } | { readonly ok: false; readonly detail: string };

const bad = (detail: string): Normalised => ({ ok: false, detail });
const good = (value: string): Normalised => ({ ok: true, value: new Address(value) });

// RFC 5321 limits; the local part is taken as any text without spaces, quotes and the characters that only quoted
// local parts may hold, since what a mail system accepts is wider than any published grammar.
const LOCAL_PART = /^[^\s"(),:;<>@[\\\]\p{Cc}\p{Cf}]{1,64}$/u;
const ASCII_DOMAIN =
  /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+(?!\d+$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

// All characters that a domain beyond ASCII may be spelt with.
const DOMAIN_TEXT = /^[a-zA-Z0-9._\-\u0080-\u{10ffff}]+$/u;

// Composing sorts the marks on a letter, in time that grows with the square of their number: a mebibyte of them held a process
// for minutes. No script has more than 30 on one letter (UAX 15, Stream-Safe Text Format).
const MANY_MARKS = /\p{M}{31}/u;

// Σ is the capital of σ and of ς, which ends a word: in capitals, or lowered letter by letter, the two are one. Here every run of
// letters is a word; for toLowerCase() a dot or an apostrophe within an address ends none.
const SIGMA = /(?<=\p{L}\p{M}*)([σς](?![\p{L}\p{M}]))|[σς]/gu;
const spellSigma = (text: string): string =>
  text.replace(SIGMA, (_, ending?: string) => (ending === undefined ? 'σ' : 'ς'));

/** The host as Node's URL makes it. Node would end it at a slash and decode percent signs, so neither gets there. */
function toAsciiDomain(domain: string): string {
  const isAscii = /^[\x20-\x7e]*$/.test(domain);
  const ascii = isAscii ? domain.toLowerCase() : DOMAIN_TEXT.test(domain) ? domainToASCII(domain) : '';
  return ascii.endsWith('.') ? ascii.slice(0, -1) : ascii;
}

/**
 * NFC, trimmed, lower-case, each sigma before the @ as people write it, domain to its A-label; dots and plus tags stay. NFC comes once
 * more after the lower case: some letters (j with a caron) are composed only there, and the same address in capitals would be somebody
 * else. In DNS, domains with σ and with ς are two, and capitals mean the one with σ (UTS 46): toLowerCase() makes a ς before a hyphen.
 */
function normaliseEmail(text: string): Normalised {
  if (MANY_MARKS.test(text)) return bad('is not an email address');
  const written = text.normalize('NFC').trim();
  const address = written.toLowerCase().normalize('NFC');
  const at = address.lastIndexOf('@');
  const local = spellSigma(address.slice(0, Math.max(at, 0)));
  let domain = address.slice(at + 1);
  if (!ASCII_DOMAIN.test(domain)) domain = toAsciiDomain(written.slice(written.lastIndexOf('@') + 1));
  if (at < 1 || !LOCAL_PART.test(local) || !ASCII_DOMAIN.test(domain)) return bad('is not an email address');
  return local.length + domain.length + 1 > 254
    ? bad('is longer than 254 characters')
    : good(`${local}@${domain}`);
}

/** E.164. "Possible", not "valid": new number ranges appear faster than metadata, and refusing an opt-out costs more. */
function normalisePhone(text: string, defaultRegion: CountryCode | undefined): Normalised {
  if (text.length > 64) return bad('is not a phone number');
  const number = parsePhoneNumberFromString(text.trim(), {
    extract: false,
    ...(defaultRegion === undefined ? {} : { defaultCountry: defaultRegion }),
  });
  if (number === undefined || !number.isPossible() || number.ext !== undefined) {
    return bad('is not a phone number in E.164, such as +442071838750');
  }
  // The parser takes away one superfluous zero each time (+320000000000): the normal form is the one that no longer changes.
  return number.number === text ? good(text) : normalisePhone(number.number, undefined);
}

function normaliseOpaque(text: string, longest: number): Normalised {
  const value = text.trim();
  if (value.length < 1 || value.length > longest) return bad(`must have 1 to ${longest} characters`);
  return /[\p{Cc}\p{Cs}]/u.test(value) ? bad('must not have control characters') : good(value);
}

/** Brings an identifier into its normal form. `defaultRegion` (ISO 3166) serves phone numbers without a country. */
export function normalise(kind: SubjectKind, text: string, defaultRegion?: string): Normalised {
  switch (kind) {
    case 'email':
      return normaliseEmail(text);
    case 'phone':
      return normalisePhone(text, defaultRegion as CountryCode | undefined);
    case 'push_token':
      return normaliseOpaque(text, 4096);
    case 'person_id':
      return normaliseOpaque(text, 256);
  }
}

/** What people see in answers and logs: enough to recognise one's own, too little to learn another's. */
export function mask({ kind, value }: Subject): string {
  const text = value.reveal();
  const first = String.fromCodePoint(text.codePointAt(0) ?? 0x2022);
  switch (kind) {
    case 'email': {
      const at = text.lastIndexOf('@');
      return `${first}••@${text[at + 1] ?? ''}••${text.slice(text.lastIndexOf('.'))}`;
    }
    case 'phone':
      return `${text.slice(0, 3)}••${text.slice(-2)}`;
    case 'push_token':
    case 'person_id':
      return `${first}••`;
  }
}
