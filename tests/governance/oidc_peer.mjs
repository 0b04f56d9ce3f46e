// A provider that is not ours: panva's oidc-provider 9 on loopback, set up as a hospital's would be.
// Configuration comes as JSON in PEER; whom to sign in is the login_hint. Prints "ready <issuer>".
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import Provider from 'oidc-provider';

const { port, redirectUri, afterSignOut, backChannel, secret, serviceJwk } = JSON.parse(process.env.PEER);
const issuer = `http://127.0.0.1:${port}`;
const api = 'urn:vigil:api';
const people = {
  nora: { name: 'Nora Lind', roles: ['ward-nurse', 'operator'], units: ['ICU-A'] },
  pavel: { name: 'Pavel Novak', roles: ['physician'], practitioner: 'P-NOVAK' },
};
const jwk = (kind, options, members) => ({
  ...generateKeyPairSync(kind, options).privateKey.export({ format: 'jwk' }), use: 'sig', ...members,
});
const person = (alg) => ({
  client_id: `vigil-${alg}`, token_endpoint_auth_method: 'none', application_type: 'native',
  grant_types: ['authorization_code', 'refresh_token'], response_types: ['code'], redirect_uris: [redirectUri],
  post_logout_redirect_uris: [afterSignOut], id_token_signed_response_alg: alg,
  backchannel_logout_uri: backChannel, backchannel_logout_session_required: true,
});
const service = { grant_types: ['client_credentials'], response_types: [], redirect_uris: [] };

const provider = new Provider(issuer, {
  jwks: {
    keys: [
      jwk('rsa', { modulusLength: 2048 }, { alg: 'RS256', kid: 'rsa' }),
      jwk('ec', { namedCurve: 'P-256' }, { alg: 'ES256', kid: 'ec' }),
      jwk('ed25519', {}, { kid: 'ed' }),
    ],
  },
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'Ed25519'], clientAuthSigningAlgValues: ['ES256', 'PS256'] },
  cookies: { keys: [randomBytes(16).toString('hex')] },
  clients: [
    ...['RS256', 'ES256', 'Ed25519'].map(person),
    { ...service, client_id: 'by-secret', client_secret: secret, token_endpoint_auth_method: 'client_secret_basic' },
    {
      ...service, client_id: 'by-key', token_endpoint_auth_method: 'private_key_jwt',
      token_endpoint_auth_signing_alg: 'ES256', jwks: { keys: [serviceJwk] },
    },
  ],
  scopes: ['openid', 'profile', 'offline_access', 'roles'],
  claims: { openid: ['sub'], profile: ['name'], roles: ['roles', 'units', 'practitioner'] },
  conformIdTokenClaims: false,
  rotateRefreshToken: true,
  // Its own guard refuses to call this machine, where the test's back channel listens.
  fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    backchannelLogout: { enabled: true },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource: (ctx, form) => {
        ctx.body = form;
      },
    },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => api,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'twin.read', audience: api, accessTokenTTL: 300, accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
  extraTokenClaims: (ctx, token) => (token.accountId ? people[token.accountId] : { roles: ['ward-nurse', 'physician'] }),
  findAccount: (ctx, id) => people[id] && { accountId: id, claims: () => ({ sub: id, ...people[id] }) },
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
});

provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/interaction/')) return next();
  const { prompt, params, session, grantId } = await provider.interactionDetails(ctx.req, ctx.res);
  if (prompt.name === 'login') {
    return provider.interactionFinished(ctx.req, ctx.res, { login: { accountId: params.login_hint } });
  }
  const known = grantId && (await provider.Grant.find(grantId));
  const grant = known || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope('openid profile roles offline_access');
  grant.addResourceScope(api, 'twin.read');
  return provider.interactionFinished(ctx.req, ctx.res, { consent: { grantId: await grant.save() } });
});

provider.listen(port, '127.0.0.1', () => console.log('ready', issuer));
