import { createRequire } from 'node:module';
import kafkajs, { Kafka, logLevel } from 'kafkajs';
import type { ISocketFactory, SASLOptions } from 'kafkajs';
import { unlz4, unsnappy, unzstandard } from './decompress.ts';

type RequestQueue = {
  readonly pending: readonly unknown[];
  scheduleCheckPendingRequests: (this: RequestQueue) => void;
};

/**
 * kafkajs 2.2.4 looks every millisecond, on every connection and for ever, whether a request waits to be sent
 * (tulios/kafkajs#1704): an idle worker woke 800 times a second. A request waits only if a broker throttles us or is sent too much
 * at once, and only then there is something to look for.
 */
function lookOnlyForWhatWaits(): void {
  const { prototype } = createRequire(import.meta.url)('kafkajs/src/network/requestQueue') as {
    prototype: RequestQueue;
  };
  const schedule = prototype.scheduleCheckPendingRequests;
  prototype.scheduleCheckPendingRequests = function () {
    if (this.pending.length > 0) schedule.call(this);
  };
}
lookOnlyForWhatWaits();

const { CompressionCodecs, CompressionTypes } = kafkajs;
CompressionCodecs[CompressionTypes.Snappy] = () => ({ decompress: unsnappy });
CompressionCodecs[CompressionTypes.LZ4] = () => ({ decompress: unlz4 });
CompressionCodecs[CompressionTypes.ZSTD] = () => ({ decompress: unzstandard });

export type KafkaLog = Record<'debug' | 'info' | 'warn' | 'error', (fields: object, message: string) => void>;

export type KafkaAddress = {
  readonly brokers: readonly string[];
  /** PEM texts, or true for the system's certificates. */
  readonly tls?:
    boolean | { readonly ca?: string; readonly cert?: string; readonly key?: string } | undefined;
  readonly sasl?:
    | {
        readonly mechanism: 'plain' | 'scram-sha-256' | 'scram-sha-512';
        readonly username: string;
        readonly password: string;
      }
    | undefined;
};

/**
 * These times recover from a killed broker in 7.5 s; with the library's own, nothing was read in the 41 s before we gave up. The
 * library's messages go to the log a level lower: it calls every lost connection an error, and goes on by itself.
 */
export function createKafka({
  address: { brokers, tls, sasl },
  clientId,
  log,
  retries = 20,
  socketFactory,
}: {
  address: KafkaAddress;
  clientId: string;
  log: KafkaLog;
  /** How often a broker that does not answer, or is not who it should be, is asked again. */
  retries?: number;
  /** For a custom way to the brokers. */
  socketFactory?: ISocketFactory;
}): Kafka {
  return new Kafka({
    clientId,
    brokers: [...brokers],
    ...(tls === undefined ? {} : { ssl: tls }),
    ...(sasl === undefined ? {} : { sasl: { ...sasl } as SASLOptions }),
    ...(socketFactory === undefined ? {} : { socketFactory }),
    connectionTimeout: 3_000,
    authenticationTimeout: 5_000,
    requestTimeout: 10_000,
    retry: { initialRetryTime: 200, maxRetryTime: 1_000, retries },
    logLevel: logLevel.INFO,
    logCreator:
      () =>
      ({ level, namespace, log: { message, error } }) => {
        const fields = { kafka: namespace, ...(typeof error === 'string' ? { said: error } : {}) };
        if (level === logLevel.ERROR) log.info(fields, message);
        else log.debug(fields, message);
      },
  });
}
