import type { Instant } from './decision.ts';

// RFC 3339 with an offset; what Date.parse accepts beyond it (months by name, a missing zone, 24:00) is refused.
const RFC3339 =
  /^\d{4}-\d{2}-\d{2}[Tt ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/;
/** From 1970 to the year 9999: beyond that, an offset would make an instant that neither sorts as text nor is a date in SQL. */
const INSTANT_MS_MAX = Date.UTC(9999, 11, 31, 23, 59, 59, 999);
const DAYS = (year: number, month: number): number => new Date(Date.UTC(year, month, 0)).getUTCDate();

/** Undefined if the text is not an RFC 3339 instant. */
export const toInstant = (text: string): Instant | undefined => {
  if (!RFC3339.test(text)) return undefined;
  const ms = Date.parse(text.replace(' ', 'T').toUpperCase());
  // Date.parse lets the 31st of February run over into March.
  const day = Number(text.slice(8, 10));
  const isThere = day <= DAYS(Number(text.slice(0, 4)), Number(text.slice(5, 7)));
  if (!isThere || !(ms >= 0 && ms <= INSTANT_MS_MAX)) return undefined;
  return new Date(ms).toISOString();
};
