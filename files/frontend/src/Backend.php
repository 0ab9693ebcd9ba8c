<?php

declare(strict_types=1);

namespace OmegaUp;

/** A backend service, over HTTPS with our client certificate. The files are read at each call: a rotation needs no reload. */
final class Backend
{
    private const CONNECT_TIMEOUT_MS = 1500;

    /** @param string $name for the words of an error */
    public function __construct(private readonly string $name, private readonly string $url)
    {
    }

    /**
     * @param array<string, mixed>|null $data null: a GET
     * @return array<mixed>
     * @throws HttpException 502 or 503; or the service's own 4xx, when it is the client's request that it refuses
     */
    public function json(string $endpoint, ?array $data = null, ?int $timeoutMs = null): array
    {
        $body = $data === null ? null : json_encode($data, JSON_THROW_ON_ERROR);
        $answer = json_decode($this->call($endpoint, $body === null ? 'GET' : 'POST', $body, $timeoutMs), true);
        return is_array($answer) ? $answer : throw new HttpException(502, "{$this->name}: the answer is not JSON");
    }

    /**
     * @return string the body of a 2xx answer
     * @throws HttpException as json()
     */
    public function call(
        string $endpoint,
        string $method = 'GET',
        ?string $body = null,
        ?int $timeoutMs = null,
        string $type = 'application/json',
    ): string {
        $timeoutMs ??= Config::int('OMEGAUP_BACKEND_TIMEOUT_MS');
        $curl = curl_init();
        curl_setopt_array($curl, [
            CURLOPT_URL => $this->url . $endpoint,
            CURLOPT_SSLCERT => Config::ssl('frontend.crt'),
            CURLOPT_SSLKEY => Config::ssl('frontend.key'),
            CURLOPT_CAINFO => Config::ssl('ca.crt'),
            CURLOPT_CRLFILE => Config::ssl('ca.crl'),
            // Both are libcurl's defaults; said here so that nobody reads their absence as an omission.
            CURLOPT_SSL_VERIFYPEER => true,
            CURLOPT_SSL_VERIFYHOST => 2,
            CURLOPT_SSLVERSION => CURL_SSLVERSION_TLSv1_2,
            CURLOPT_PROTOCOLS => CURLPROTO_HTTPS,
            // An https_proxy in the environment is for the outside world, not for the host next door.
            CURLOPT_NOPROXY => '*',
            CURLOPT_NOSIGNAL => true,
            CURLOPT_CONNECTTIMEOUT_MS => min(self::CONNECT_TIMEOUT_MS, $timeoutMs),
            CURLOPT_TIMEOUT_MS => $timeoutMs,
            CURLOPT_RETURNTRANSFER => true,
            CURLOPT_CUSTOMREQUEST => $method,
        ]);
        if ($body !== null) {
            curl_setopt_array($curl, [
                CURLOPT_POSTFIELDS => $body,
                // "Expect:" off: waiting for 100 Continue would add a round trip (or a second) to each submission.
                CURLOPT_HTTPHEADER => ["Content-Type: $type", 'Accept: application/json', 'Expect:'],
            ]);
        }
        $response = curl_exec($curl);
        if ($response === false && curl_errno($curl) === 58) {
            // Key and certificate are read by their names: a renewal came between the two. Nothing was sent yet.
            usleep(50_000);
            $response = curl_exec($curl);
        }
        if (!is_string($response)) {
            throw $this->unreachable(curl_errno($curl), curl_error($curl));
        }
        return $this->taken((int)curl_getinfo($curl, CURLINFO_RESPONSE_CODE), $response);
    }

    private function unreachable(int $code, string $text): HttpException
    {
        $error = new \RuntimeException("curl $code: $text");
        Log::failure($this->name, $error);
        return match ($code) {
            CURLE_COULDNT_RESOLVE_HOST => new HttpException(503, "{$this->name}: name not resolved"),
            CURLE_COULDNT_CONNECT => new HttpException(503, "{$this->name}: connection refused"),
            CURLE_OPERATION_TIMEDOUT => new HttpException(503, "{$this->name}: timeout"),
            // 35 handshake, 58 our certificate, 60 (and 51) theirs, 77 the CA file, 82 the revocation list: waiting does
            // not mend these.
            35, 51, 58, 60, 77, 82 => new HttpException(502, "{$this->name}: TLS failure"),
            // With TLS 1.3 a refused client certificate shows up only here, as an alert or, when the peer's reset
            // overtakes it, as a connection that was lost.
            CURLE_RECV_ERROR, CURLE_SEND_ERROR, CURLE_GOT_NOTHING =>
                new HttpException(502, "{$this->name}: " . (Log::reason($error) === 'TLS failure' ? 'TLS failure' : 'connection lost')),
            default => new HttpException(502, "{$this->name}: unavailable"),
        };
    }

    private function taken(int $status, string $response): string
    {
        if ($status >= 200 && $status < 300) {
            return $response;
        }
        $answer = json_decode($response, true);
        Log::failure($this->name, new \RuntimeException("HTTP $status"));
        $reason = is_array($answer) && is_string($answer['error'] ?? null) ? $answer['error'] : "HTTP $status";
        throw match (true) {
            in_array($status, [400, 404, 409, 413, 422, 429], true) => new HttpException($status, $reason),
            $status === 503 => new HttpException(503, "{$this->name}: not ready"),
            // 401 and 403 too: it is us that the service does not want, not the client.
            default => new HttpException(502, "{$this->name}: HTTP $status"),
        };
    }
}
