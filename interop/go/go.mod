module roletalk-interop

go 1.21

require github.com/xshkut/roletalk-go v1.0.6

require (
	github.com/blang/semver v3.5.1+incompatible // indirect
	github.com/gorilla/websocket v1.4.1 // indirect
	github.com/pkg/errors v0.8.1 // indirect
)
