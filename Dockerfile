# A static binary in an empty image: nothing to run but the service.
FROM golang:1.27.1 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -pgo=cmd/refiner-source/release.pgo -trimpath -ldflags "-s -w" -o /refiner-source ./cmd/refiner-source

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /refiner-source /refiner-source
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/refiner-source"]
