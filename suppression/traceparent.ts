// The W3C trace context (https://www.w3.org/TR/trace-context/) of the request that recorded a decision travels with it, so
// that one trace leads from the client's call to the store's. Ids only: nothing in it is about a person.

/** What a `traceparent` says; the shape of OpenTelemetry's span context. */
export type TraceContext = { readonly traceId: string; readonly spanId: string; readonly traceFlags: number };

const TRACEPARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})$/;

/** Undefined for text that does not have the form, or that has the all-zero ids that mean nothing. */
export function parseTraceparent(text: string | undefined): TraceContext | undefined {
  const [, traceId, spanId, flags] = TRACEPARENT.exec(text ?? '') ?? [];
  if (traceId === undefined || spanId === undefined || flags === undefined) return undefined;
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16) };
}

export const formatTraceparent = ({ traceId, spanId, traceFlags }: TraceContext): string =>
  `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, '0')}`;
