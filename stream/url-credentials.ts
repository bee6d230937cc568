// In abide.yaml the URLs of the schema registry and of Kafka Connect may carry a user and a password. They are sent in a header, and
// the URL that is called, which a message may show, is without them.

export type Credentials = { readonly username: string; readonly password: string };

/** Takes user and password out of a URL. Without a user there are none. */
export function takeCredentials(url: string): { address: URL; credentials: Credentials | undefined } {
  const address = new URL(url);
  const { username, password } = address;
  address.username = address.password = '';
  if (username === '') return { address, credentials: undefined };
  return {
    address,
    credentials: { username: decodeURIComponent(username), password: decodeURIComponent(password) },
  };
}

/** The header that says them; none if there are none. */
export const basicAuthorization = (credentials: Credentials | undefined): { authorization?: string } =>
  credentials === undefined
    ? {}
    : {
        authorization: `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64')}`,
      };
