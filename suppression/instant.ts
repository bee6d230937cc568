import type { Instant } from './decision.ts';

// RFC 3339 with an offset; what Date.parse accepts beyond it (months by name, a missing zone, 24:00) is refused.
const RFC3339 =
  /^\d{4}-\d{2}-\d{2}[Tt ](?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/;
/** From 1970 to the year 9999: beyond that, an offset would make an instant that neither sorts as text nor is a date in SQL. */
const INSTANT_MS_MAX = Date.UTC(9999, 11, 31, 23, 59, 59, 999);
const DAY_MS = 86_400_000;
const LEAP = /:60(?:\.\d+)?/;
const DAYS = (year: number, month: number): number => new Date(Date.UTC(year, month, 0)).getUTCDate();

/** Undefined if the text is not RFC 3339. Date has no leap second, which ends a day of UTC: it is that day's last millisecond. */
const toMs = (text: string): number | undefined => {
  if (!RFC3339.test(text)) return undefined;
  const ms = Date.parse(text.replace(LEAP, ':59.999').replace(' ', 'T').toUpperCase());
  if (LEAP.test(text) && (ms + 1) % DAY_MS !== 0) return undefined;
  // Date.parse lets the 31st of February run over into March.
  const day = Number(text.slice(8, 10));
  return day <= DAYS(Number(text.slice(0, 4)), Number(text.slice(5, 7))) ? ms : undefined;
};

/** Undefined if the text is not an RFC 3339 instant, or not one from 1970 to 9999. */
export const toInstant = (text: string): Instant | undefined => {
  const ms = toMs(text);
  return ms !== undefined && ms >= 0 && ms <= INSTANT_MS_MAX ? new Date(ms).toISOString() : undefined;
};

/** Of a text that is no instant here: whether it is one of another time. */
export const isOutOfRange = (text: string): boolean =>
  toMs(text) !== undefined && toInstant(text) === undefined;
